"""A step as a picture: what is computed, and the buckets on their way meanwhile."""

from matplotlib.figure import Figure


def draw(prediction, path):
    """Bars over time in ms for a prediction of `bin/plan`, as PNG or whatever the file's name says. Of a rank's
    workers the last is shown: gradients travel while it computes.
    """
    figure = Figure(figsize=(10, 3.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    forward, backward = prediction["forward_ms"], prediction["backward_ms"]
    axes.barh([1], [forward], 0.6, color="C0", label="forward")
    axes.barh([1], [backward], 0.6, left=forward, color="C1", label="backward")
    for number, bucket in enumerate(prediction["buckets"]):
        # two shades in turn: sums that follow one another at once stay apart
        axes.barh(
            [0], [bucket["end_ms"] - bucket["start_ms"]], 0.6, left=forward + bucket["start_ms"],
            color="C2" if number % 2 else "darkgreen", label="sum of a bucket" if number == 0 else None)  # fmt: skip
        axes.plot([forward + bucket["ready_ms"]] * 2, [0.32, 0.68], color="grey", linewidth=1,
                  label="a bucket is ready" if number == 0 else None)  # fmt: skip
    end, turns = forward + backward + prediction["exposed_ms"], prediction["workers_a_rank"]
    axes.axvline(end, color="black", linestyle="--", linewidth=1, label="end of the step")
    axes.set(
        xlabel="ms" if turns == 1 else f"ms of the last of {turns} workers", xlim=(0, None),
        yticks=[0, 1], yticklabels=["communication", "compute"],
        title=f"{prediction['recipe']}, {prediction['ranks']} ranks: {prediction['step_ms']:.0f} ms a step, "
              f"{prediction['exposed_ms']:.1f} ms of them waiting for gradients")  # fmt: skip
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path)
