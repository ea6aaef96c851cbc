"""The one exception that is the user's to mend."""


class UserError(Exception):
    """A mistake in a configuration, a file or a command.

    Commands print it as one line on stderr and exit with status 2, without a traceback. The message says
    what is wrong, where (file, key or row) and which rule was broken. Anything else that escapes is a bug.
    """
