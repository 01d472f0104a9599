"""The roofline as a picture."""

from matplotlib.figure import Figure

from nptrain.report import picture

MARKERS = "o^sDvP*X<>hp"


def draw(result, path):
    """A log-log plot of `roofline.measure`'s result: the two roofs and every operation, a colour for each kind."""
    figure = Figure(figsize=(10, 6.5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    rows, peak, bandwidth = result["rows"], result["peak_gflops"], result["bandwidth"]
    ridge = peak / bandwidth
    right = 4 * max(ridge, *(row["intensity"] for row in rows))
    left = min(row["intensity"] for row in rows) / 2
    axes.plot([left, ridge, right], [left * bandwidth, peak, peak], color="black", linewidth=1.5)
    axes.annotate(f"FMA peak {peak:.0f} GFLOP/s", (right, peak), (-6, 5), textcoords="offset points", ha="right")
    axes.annotate(f"memory {bandwidth:.1f} GB/s", (ridge, peak), (-12, 5), textcoords="offset points", ha="right")
    kinds = dict.fromkeys(row["kind"] for row in rows)
    for number, kind in enumerate(kinds):
        points = [(row["intensity"], row["gflops"]) for row in rows if row["kind"] == kind]
        axes.scatter(*zip(*points, strict=True), label=kind, marker=MARKERS[number % len(MARKERS)], s=42,
                     color=f"C{number % 10}", alpha=0.8, linewidths=0)  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlim=(left, right),
        xlabel="arithmetic intensity (FLOP / byte of least memory traffic)", ylabel="speed (GFLOP/s)",
        title=f"ResNet-50 training step, {result['batch']} images of {result['crop_size']}×{result['crop_size']}, "
              f"{result['threads']} thread{'s' * (result['threads'] > 1)}")  # fmt: skip
    axes.grid(which="major", alpha=0.3)
    axes.legend(loc="lower right")
    picture.save(figure, path)
