"""The version of Malote that is installed."""

import importlib.metadata

VERSION = importlib.metadata.version("malote")
