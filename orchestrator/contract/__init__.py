"""The contract shared by orchestrator, trainer and analysis.

`vocabulary`: names and constants. `exits`: exit codes. `identity`: digests of tasks. `kinds` and `tasks`: the identities. `mixture`: the
order of the data. `sizes`: the model ladder. `plan`: a plan as data. `record`: the result of a finished task. `events`: the protocol
between a worker and its parent. `files`: file types and fingerprints. `formatting`: numbers for people. Pure: no file, clock or network
access.
"""
