"""The predicted step as a picture."""

from nptrain.report import step_plot


def draw(prediction, path):
    """Draw a prediction of `bin/plan`. Of a rank's workers the last is shown: gradients are sent while it computes. The
    format is that of the file's name.
    """
    forward, exposed, turns = prediction["forward_ms"], prediction["exposed_ms"], prediction["workers_a_rank"]
    backward = forward + prediction["backward_ms"]
    spans = [("forward", 0, forward), ("backward", forward, backward), ("waiting", backward, backward + exposed)]
    sums = [(f"{b['mb']:.1f} MB", *(forward + b[f"{at}_ms"] for at in ("ready", "start", "end")))
            for b in prediction["buckets"]]  # fmt: skip
    title = (f"{prediction['recipe']}, {prediction['ranks']} ranks: {prediction['step_ms']:.0f} ms a step, "
             f"{exposed:.1f} ms of them waiting for gradients")  # fmt: skip
    step_plot.draw(spans, sums, title, "ms" if turns == 1 else f"ms of the last of {turns} workers", path)
