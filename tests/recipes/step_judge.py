"""A judge of steps for the tests of recipes."""


def alternating(record):
    """Right, wrong, right, …; the last as the answer."""
    labels = [1 - place % 2 for place in range(len(record["steps"]))]
    if record.get("correct") is not None:
        labels[-1] = int(record["correct"])
    return labels
