"""Which storages can be set."""

import pytest
from pydantic import ValidationError

from services.reports.settings import ReportsSettings


@pytest.mark.parametrize("url", ["ftp://x", "s3://", "http://x/y", "gs://x"])
def test_a_storage_that_we_cannot_use_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="neither a folder nor a bucket"):
        ReportsSettings(storage_url=url)


@pytest.mark.parametrize("url", ["", "files", "/var/files", "file:///var/files", "s3://exports", "s3://exports/malote"])
def test_folders_and_buckets_are_taken(url: str) -> None:
    assert "://" in ReportsSettings(storage_url=url).storage
