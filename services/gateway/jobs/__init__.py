"""Jobs as clients see them: how one is started, and what is answered."""
