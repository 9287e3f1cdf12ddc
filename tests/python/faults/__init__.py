"""The fault matrix: what every rank gets when one of them does something wrong.

scenarios.py   the table: each fault, what the ranks do, and what each kind of group promises
rank.py        one rank: runs a fault, checks every number, then trains on in a new group
groups.py      the kinds of groups, and layers over them
program.py     the process of one or more ranks
ranks.py       starts processes, waits for them with a deadline, collects their reports
page.py        docs/faults.md from the table
"""
