"""What services say to each other. Start with `contracts.flow`."""
