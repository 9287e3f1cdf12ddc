"""Where the ranks of a group are, for errors when they disagree or do not come.

calls.py records what this rank does; positions.py is what it tells of that, told.py how the others
hear it, watch.py the thread that tells it when the rank itself cannot, account.py the text, and
who_is_where.py the errors. The rest of the adapter uses calls.Record and who_is_where.in_call.
"""
