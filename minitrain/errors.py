"""The one exception for mistakes that a person can mend."""


class UserError(Exception):
    """What was given, what was expected, where, and what to do about it.

    Raised before the first step, with the same text on every rank. A program under `minitrain.launch()`
    prints it once, without a traceback, and ends the job with status 2.
    """
