"""Rewards of boxes and points in an image: how near each is to its gold one, matched one to one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.columns import column_named
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.extract import after_thinking
from reasonrl.rewards.spatial_read import LAYOUTS, MOST, Shape, as_corners, is_sound, read_gold, read_text
from reasonrl.rewards.verdict import status_shares

FRAMES = ("pixels", "unit", "thousand")
BOX_MEASURES = ("iou", "step_gui")
POINT_MEASURES = ("step_gui", "gaussian", "linear", "inside")
STATUSES = ("correct", "wrong", "no_answer", "bad_gold")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)

Measure = Callable[[Shape, Shape], float]


class _SpatialReward:
    """What boxes and points share: reading, frames, matching, logging."""

    token_level = False
    name = ""
    size = 0
    gold_size = 0
    gold_columns: tuple[str, ...] = ()

    def __init__(
        self,
        measure: str,
        measures: Sequence[str],
        gold: str | None,
        frame: str,
        gold_frame: str | None,
        image_size: str,
        right_at: float,
        least: float,
    ) -> None:
        if measure not in measures:
            raise RewardError(f"reward {self.name!r}: measure {measure!r} is unknown{near(str(measure), measures)}")
        for key, value in (("frame", frame), ("gold_frame", gold_frame)):
            if value is not None and value not in FRAMES:
                raise RewardError(f"reward {self.name!r}: {key} {value!r} is unknown{near(str(value), FRAMES)}")
        self.__name__ = self.name
        self.measure = measure
        self.gold = gold
        self.frame = frame
        self.gold_frame = gold_frame or frame
        self.image_size = image_size
        self.right_at = right_at
        if not 0 <= least <= 1:
            raise RewardError(f"reward {self.name!r}: least={least} -> 0 to 1")
        self.least = least
        self.layout = self.gold_layout = "xyxy"
        self.scale_free = False

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Any] | None = None,
        *,
        log_extra: Callable[..., None] | None = None,
        log_metric: Callable[..., None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """A number in [0, 1] a completion, None where the gold holds nothing to compare with; `verdict` goes to
        `log_extra` (`correct` from `right_at` on), the share of each status to `log_metric`.
        """
        golds = columns[self._gold_column(columns)] if completions else ()
        sizes = columns.get(self.image_size) or [None] * len(completions)
        if len(golds) != len(completions):
            raise RewardError(f"reward {self.name!r}: {len(completions)} completions, but {len(golds)} golds")
        judged = [
            self._judge(text_of(one), gold, size) for one, gold, size in zip(completions, golds, sizes, strict=True)
        ]
        if log_extra is not None:
            log_extra("verdict", [status for _, status in judged])
        if log_metric is not None:
            for name, value in status_shares([status for _, status in judged], STATUSES).items():
                log_metric(name, value)
        return [score for score, _ in judged]

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Refuse rows of which none has a gold; single ones are masked and counted in training."""
        if rows:
            self._gold_column({name: value for row in rows for name, value in row.items() if value is not None})

    def _gold_column(self, columns: Mapping[str, Any]) -> str:
        return column_named(self.name, self.gold, self.gold_columns, columns)

    def _judge(self, text: str, gold: Any, image: Any) -> tuple[float | None, str]:
        try:
            golds = [as_corners(shape, self.gold_layout) for shape in read_gold(gold, self.gold_size)]
            scale = self._scales(image)
        except RewardError:
            raise
        except ValueError:
            return None, "bad_gold"
        if not all(map(is_sound, golds)) or len(golds) > MOST:
            return None, "bad_gold"
        outside = after_thinking(text)
        tags = _ANSWER.findall(outside)
        shapes = read_text(tags[-1] if tags else outside, self.size)
        if shapes is None or len(shapes) > MOST:
            return 0.0, "no_answer"
        if not golds:
            return float(not shapes), "wrong" if shapes else "correct"
        shapes = [as_corners(shape, self.layout) for shape in shapes]
        measure = self._measure()
        rows = [
            [self._counted(measure(_scaled(shape, scale[0]), _scaled(one, scale[1]))) for one in golds]
            for shape in shapes
            if is_sound(shape)
        ]
        score = 2 * best_total(rows) / (len(shapes) + len(golds))
        return score, "correct" if score >= self.right_at else "wrong"

    def _counted(self, closeness: float) -> float:
        return closeness if closeness >= self.least else 0.0

    def _measure(self) -> Measure:
        raise NotImplementedError

    def _scales(self, image: Any) -> tuple[tuple[float, float], tuple[float, float]]:
        """What the coordinates of answers and of golds are divided by, along x and along y.

        Raises:
            ValueError: the image's size is of no use. RewardError: it is needed, and there is none.
        """
        if self.frame == self.gold_frame and self.scale_free:
            return (1.0, 1.0), (1.0, 1.0)
        by_frame = {"unit": (1.0, 1.0), "thousand": (1000.0, 1000.0)}
        if "pixels" in (self.frame, self.gold_frame):
            by_frame["pixels"] = self._image(image)
        return by_frame[self.frame], by_frame[self.gold_frame]

    def _image(self, image: Any) -> tuple[float, float]:
        if image is None:
            raise RewardError(
                f"reward {self.name!r}: pixels are to be compared with other frames or with tau, and there is no column"
                f" {self.image_size!r} with each image's [width, height] -> add it, or set args.image_size, frame"
            )
        sides = [image.get("width"), image.get("height")] if isinstance(image, Mapping) else image
        if not isinstance(sides, (list, tuple)) or len(sides) != 2:
            raise ValueError("an image size is [width, height]")
        width, height = (float(side) for side in sides if isinstance(side, (int, float)))
        if width <= 0 or height <= 0:
            raise ValueError("an image has positive sides")
        return width, height


class BoxesReward(_SpatialReward):
    """How well the boxes in a response cover the gold ones.

    Boxes are matched to gold boxes so that the sum of their measures s is largest; the score is
    2 sum(s) / (predicted + gold), so that boxes too many cost as boxes too few do. A box of no area counts as predicted
    and matches nothing; no box at all, or more than 256, scores 0; a gold without sound boxes gives None.

    Args:
        measure: `iou`, intersection over union; `step_gui` (arXiv:2512.15431), `0.8 exp(-E) + 0.2 IoU` with
            `E = dcx^4 + dcy^4 + 0.5 (dw^4 + dh^4)`, differences of centres and sizes over `tau`.
        tau: the distance that counts as one, a share of the image's width and height (the paper does not give its own).
        gold: the column with the golds; None takes `boxes`, `bbox`, `answer` or `solution`.
        frame: coordinates of responses: `pixels`, `unit` (0 to 1) or `thousand` (0 to 1000).
        gold_frame: those of the golds; None: the same.
        layout: `xyxy`, two corners, or `xywh`, a corner and sizes; gold_layout: that of the golds, None: the same.
        image_size: the column with each image's `[width, height]` in pixels, where frames differ or `tau` counts.
        right_at: from this score on the verdict is `correct`.
        least: a pair whose measure is smaller counts 0: 0.5 with `iou` pays nothing for boxes that hardly meet.
    """

    name = "boxes"
    size = gold_size = 4
    gold_columns = ("boxes", "bbox", "answer", "solution")

    def __init__(
        self,
        measure: str = "iou",
        tau: float = 0.1,
        gold: str | None = None,
        frame: str = "pixels",
        gold_frame: str | None = None,
        layout: str = "xyxy",
        gold_layout: str | None = None,
        image_size: str = "image_size",
        right_at: float = 0.5,
        least: float = 0.0,
    ) -> None:
        super().__init__(measure, BOX_MEASURES, gold, frame, gold_frame, image_size, right_at, least)
        for key, value in (("layout", layout), ("gold_layout", gold_layout)):
            if value is not None and value not in LAYOUTS:
                raise RewardError(f"reward 'boxes': {key} {value!r} is unknown{near(str(value), LAYOUTS)}")
        self.layout = layout
        self.gold_layout = gold_layout or layout
        self.tau = _positive(self.name, tau)
        self.scale_free = measure == "iou"

    def _measure(self) -> Measure:
        return iou if self.measure == "iou" else lambda box, gold: step_gui_box(box, gold, self.tau)


class PointsReward(_SpatialReward):
    """How near the points in a response are to the gold ones, matched and scored as `BoxesReward` does.

    Args:
        measure: with distances d = |point - gold| / tau along x and y: `step_gui` (arXiv:2512.15431),
            `exp(-(dx^4 + dy^4))`; `gaussian`, `exp(-(dx^2 + dy^2) / 2)`; `linear`, `max(0, 1 - sqrt(dx^2 + dy^2))`;
            or `inside`, 1 for a point inside a gold *box*.
        tau, gold, frame, gold_frame, image_size, right_at, least: as in `BoxesReward`; `gold` None takes `points`,
            `point`, `answer` or `solution` (`inside`: `boxes`, `bbox`, `answer` or `solution`).
        gold_layout: of the gold boxes of `inside`.
    """

    name = "points"
    size = gold_size = 2
    gold_columns = ("points", "point", "answer", "solution")

    def __init__(
        self,
        measure: str = "step_gui",
        tau: float = 0.1,
        gold: str | None = None,
        frame: str = "pixels",
        gold_frame: str | None = None,
        gold_layout: str = "xyxy",
        image_size: str = "image_size",
        right_at: float = 0.5,
        least: float = 0.0,
    ) -> None:
        super().__init__(measure, POINT_MEASURES, gold, frame, gold_frame, image_size, right_at, least)
        if gold_layout not in LAYOUTS:
            raise RewardError(f"reward 'points': gold_layout {gold_layout!r} is unknown{near(gold_layout, LAYOUTS)}")
        self.gold_layout = gold_layout
        self.tau = _positive(self.name, tau)
        if measure == "inside":
            self.gold_size, self.gold_columns, self.scale_free = 4, BoxesReward.gold_columns, True

    def _measure(self) -> Measure:
        if self.measure == "inside":
            return lambda point, box: float(box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3])
        return lambda point, gold: point_measure(self.measure, point, gold, self.tau)


def iou(box: Shape, gold: Shape) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    width = min(box[2], gold[2]) - max(box[0], gold[0])
    height = min(box[3], gold[3]) - max(box[1], gold[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(one[2] - one[0]) * (one[3] - one[1]) for one in (box, gold)]
    return width * height / (sum(areas) - width * height)


def step_gui_box(box: Shape, gold: Shape, tau: float) -> float:
    """`0.8 exp(-E) + 0.2 IoU` of arXiv:2512.15431."""
    ours, theirs = (
        ((one[0] + one[2]) / 2, (one[1] + one[3]) / 2, one[2] - one[0], one[3] - one[1]) for one in (box, gold)
    )
    fourth = [min(abs(a - b) / tau, 1e3) ** 4 for a, b in zip(ours, theirs, strict=True)]
    energy = fourth[0] + fourth[1] + 0.5 * (fourth[2] + fourth[3])
    return 0.8 * math.exp(-energy) + 0.2 * iou(box, gold)


def point_measure(measure: str, point: Shape, gold: Shape, tau: float) -> float:
    """Closeness in [0, 1] of two points."""
    x, y = (min(abs(a - b) / tau, 1e3) for a, b in zip(point, gold, strict=True))
    if measure == "step_gui":
        return math.exp(-(x**4 + y**4))
    return math.exp(-(x * x + y * y) / 2) if measure == "gaussian" else max(0.0, 1 - math.hypot(x, y))


def best_total(rows: Sequence[Sequence[float]]) -> float:
    """The largest sum of entries, no two of which share a row or a column."""
    if not rows or not rows[0]:
        return 0.0
    if len(rows) == 1 or len(rows[0]) == 1:
        return max(value for row in rows for value in row)
    from scipy.optimize import linear_sum_assignment

    chosen = linear_sum_assignment(rows, maximize=True)
    return math.fsum(rows[row][column] for row, column in zip(*chosen, strict=True))


def _scaled(shape: Shape, scale: tuple[float, float]) -> Shape:
    return tuple(value / scale[place % 2] for place, value in enumerate(shape))


def _positive(name: str, tau: float) -> float:
    if not tau > 0:
        raise RewardError(f"reward {name!r}: tau={tau} must be above 0")
    return float(tau)
