"""The usual way: FastAPI, SQLAlchemy, one database, and Celery on the same broker. Malote's figures stand beside its.

It does the same work for an order: token, validation, prices from the list, a job's row, stock reserved under locks,
two mails over a kept connection. It leaves out what its users leave out: no outbox (a crash between commit and publish
loses the order's tasks), no inbox (a task that comes twice is kept from harm by the order's state, a mail is not), no
dead letters, no read model for reports, no services of their own; and it logs warnings only, Malote a line a message.

Tuned by measuring, on two cores: see `tasks.py`, and PEER_WEB and PEER_WORKER in `shops.py`.
"""
