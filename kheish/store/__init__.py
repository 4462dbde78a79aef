"""The only code that writes the state root: journals, checkpoints, documents, blobs and the locks over them.

Everything here is blocking and is called off the event loop, save `Journal.frame` and the faces of `Committer`.
Imports the foundations alone; to the store an event is JSON that it never looks into.
"""
