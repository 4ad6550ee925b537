"""As whom the owning services are asked."""

import jwt
from pydantic import SecretStr

from services.reports.adapters.owners import Owners
from services.reports.settings import ReportsSettings
from tests.running import SECRET


def test_the_token_that_reports_makes_for_itself_may_only_read() -> None:
    settings = ReportsSettings(jwt_secret=SecretStr(SECRET))
    claims = jwt.decode(Owners(settings)._token(), SECRET, algorithms=["HS256"])
    assert (claims["role"], claims["access"]) == ("operator", "read")
