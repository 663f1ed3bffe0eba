"""What orchestrator, trainer and analysis share, and nothing else.

`words` are names and numbers with a meaning, `identity` turns a task into a digest, `tasks` are the identities themselves, `mixture` is
the order of the data, `plan` is a plan as data, `record` is what a finished task leaves, `events` is how a worker talks to its parent.
Nothing here touches a file, a clock or the network.
"""
