"""`evolution doctor`: checks this machine or a cluster before the first run.

What is seen (`see_machine`, `see_cluster`, `store.trial`) is apart from what it means (`machine`, `storage`, `model`, `cluster`,
`objects`, `nodes`), which is pure.
"""
