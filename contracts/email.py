"""What the email service owns: the command by which it sends what it has written down."""

from typing import ClassVar

from contracts.base import UUID, Command


class DeliverMail(Command):
    """Send one recorded mail."""

    key: ClassVar[str] = "mail.deliver.v1"

    mail_id: UUID
