"""The task queues that bench.others compares with: for each how its worker is started, and how it is given a task.

Each module has ``VERSION``, ``WORKER`` (the arguments of the interpreter that start two workers), ``ACKNOWLEDGED``
(when a task is no longer the broker's), and ``enqueue``, which returns when Redis has acknowledged the task. They read
their broker and their sink from the environment, as the worker's own command line imports them.
"""
