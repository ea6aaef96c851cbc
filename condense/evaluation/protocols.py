"""The protocols by which a set is judged. Imports nothing heavy: the command line names them."""

PROTOCOLS = ("probe", "convnet", "retrieval")
