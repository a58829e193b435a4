"""How a verdict reaches people where they review: comments, check runs, merge-request notes, a chat.

What others wrote is read as data and shown without effect. Nothing here changes a verdict or an exit code.
"""
