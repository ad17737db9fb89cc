"""What the shop keeps in its database."""

from beanie import Document


class Order(Document):
    item: str
    email: str
    is_confirmed: bool = False

    class Settings:
        name = "orders"


class Mail(Document):
    id: str  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    to: str
    subject: str

    class Settings:
        name = "mails"
