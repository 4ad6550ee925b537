"""The bodies of HTTP: requests and answers, a module for each subject.

Times are aware and in UTC. A request with an unknown field is refused, so that no misspelt field is ignored.
"""
