"""The hosts of a run as a table."""

from nptrain.report.table import columns

HEAD = ("host", "rank", "cores", "threads", "communication cores", "workers")
HOST = 20  # characters of a host's name


def host_table(entries):
    """A line for each rank of a run. `entries` are dictionaries of host, rank, cores, threads, communication_cores
    (cores as text) and workers (numbers).
    """
    rows = [HEAD]
    for entry in entries:
        workers = entry["workers"]
        range_text = f"{workers[0]}..{workers[-1]}" if workers else "none"
        numbers = (str(entry[name]) for name in ("rank", "cores", "threads", "communication_cores"))
        rows.append((entry["host"][:HOST], *numbers, range_text))
    return "\n".join(columns(rows, right=(1, 2, 3, 4)))
