"""What label rules, best-of-N and search can make of the reflective world if scores were perfect: the figures that the
study of process reward models was designed with. Slow: they are Monte-Carlo estimates.
"""

from __future__ import annotations

import random
from statistics import mean

import pytest

from reasonrl.data_tools.worlds.reflective import answer_of, gold_of, law_of, read_trace
from reasonrl.data_tools.worlds.reflective_law import draw_chain, value_of
from reasonrl.prm.labels import agreement, first_error_labels, mc_labels

LAW = law_of("prm")


def auroc(scores, labels):
    """Share of (right, wrong) pairs that the score orders, ties half."""
    right = [score for score, label in zip(scores, labels, strict=True) if label]
    wrong = [score for score, label in zip(scores, labels, strict=True) if not label]
    return mean((a > b) + 0.5 * (a == b) for a in right for b in wrong)


def successes(law, chain, trace, draw, completions=8):
    """Of every step but the answer's line, which leaves nothing to complete."""
    gold, found = value_of(chain), []
    for _, end in trace.steps[:-1]:
        prefix = trace.text[:end]
        ends = [answer_of(prefix + law.complete(chain, prefix, draw)) for _ in range(completions)]
        found.append(sum(one == gold for one in ends))
    return found


@pytest.mark.slow
def test_monte_carlo_labels_are_what_the_paper_finds_them_to_be():
    """Hard labels call most wrong steps right, and two completers differ on a fifth of the steps: the paper's rows are
    precision .613 and recall .994 for a public Monte-Carlo set, and 79 % agreement.
    """
    draw = random.Random(0)
    weaker = law_of("prm", {"repair": 0.08})
    truth, hard, soft, other = [], [], [], []
    for _ in range(250):
        chain = draw_chain(draw, 8)
        trace = LAW.write(chain, draw)
        labels, shares = mc_labels(successes(LAW, chain, trace, draw), 8)
        truth.append(trace.labels[:-1])
        hard.append(labels)
        soft.append(shares)
        other.append(mc_labels(successes(weaker, chain, trace, draw), 8)[0])
    against = agreement(truth, hard)
    wrong_called_right = against.only_second / (against.only_second + against.both_wrong)
    recall = against.both_right / (against.both_right + against.only_first)
    precision = against.both_right / (against.both_right + against.only_second)
    flat = [(score, label) for a, b in zip(soft, truth, strict=True) for score, label in zip(a, b, strict=True)]
    separation = auroc(*zip(*flat[:1500], strict=True))
    completers = agreement(hard, other)
    print(
        f"wrong steps called right {wrong_called_right:.2f}, recall {recall:.2f}, precision {precision:.2f},"
        f" kappa {against.kappa:.2f} {against.interval}, soft AUROC {separation:.2f},"
        f" completers agree {completers.observed:.2f}"
    )
    assert 0.75 < wrong_called_right < 0.9 and recall > 0.93 and 0.48 < precision < 0.6
    assert 0.72 < separation < 0.85
    assert 0.72 < completers.observed < 0.86


def best_of(scores, correct, n, draw, draws=20):
    """Right answers of the highest score among n of the samples, ties by chance."""
    found = []
    for _ in range(draws):
        chosen = draw.sample(range(len(scores)), n)
        top = max(scores[k] for k in chosen)
        found.append(mean(correct[k] for k in chosen if scores[k] == top))
    return mean(found)


@pytest.mark.slow
def test_best_of_n_needs_more_than_the_first_error():
    draw = random.Random(1)
    sound = {n: [] for n in (2, 4, 8, 16)}
    first = {n: [] for n in (2, 4, 8, 16)}
    for _ in range(300):
        chain = draw_chain(draw, 8)
        made = [LAW.write(chain, draw) for _ in range(16)]
        correct = [trace.correct for trace in made]
        spotless = [0 not in first_error_labels(trace.labels) for trace in made]
        for n in sound:
            sound[n].append(best_of([trace.labels[-1] for trace in made], correct, n, draw))
            first[n].append(best_of(spotless, correct, n, draw))
    print("knowing soundness", {n: round(mean(found), 2) for n, found in sound.items()})
    print("knowing the first error", {n: round(mean(found), 2) for n, found in first.items()})
    for n, aim in ((2, 0.61), (4, 0.80), (8, 0.93), (16, 0.98)):
        assert abs(mean(sound[n]) - aim) < 0.06
    for n, aim in ((2, 0.46), (4, 0.51), (8, 0.60), (16, 0.69)):
        assert abs(mean(first[n]) - aim) < 0.09


def search(chain, problem_gold, score, n, draw):
    """Step by step, the best of n next lines; the answer is right?"""
    text = ""
    while answer_of(text) is None and text.count("\n") < 23:
        lines = [LAW.next_line(chain, text, draw) for _ in range(n)]
        scores = [score(text + line) for line in lines]
        text += draw.choice([line for line, value in zip(lines, scores, strict=True) if value == max(scores)])
    return answer_of(text) == problem_gold


@pytest.mark.slow
def test_search_by_soundness_beats_search_by_the_first_error_at_two_candidates():
    from reasonrl.data_tools.worlds.reflective_law import text_of

    draw = random.Random(2)
    found: dict[tuple[str, int], list[bool]] = {}
    for _ in range(250):
        chain = draw_chain(draw, 8)
        problem = text_of(chain)
        gold = gold_of(problem)

        def standing(text: str, problem: str = problem) -> bool:
            read = read_trace(problem, text)
            return not read.wrong_operations

        def spotless(text: str, problem: str = problem) -> bool:
            return not any(read_trace(problem, text).own_error)

        for name, score in (("none", lambda text: 0), ("first error", spotless), ("soundness", standing)):
            for n in (2, 4, 8):
                found.setdefault((name, n), []).append(search(chain, gold, score, n, draw))
    shares = {key: mean(right) for key, right in found.items()}
    print({f"{name} {n}": round(share, 2) for (name, n), share in shares.items()})
    for n, aim in ((2, 0.58), (4, 0.82), (8, 0.96)):
        assert abs(shares["first error", n] - aim) < 0.1
    for n, aim in ((2, 0.75), (4, 0.96), (8, 1.0)):
        assert abs(shares["soundness", n] - aim) < 0.1
    assert shares["soundness", 2] > shares["first error", 2] + 0.08
    assert abs(shares["none", 2] - 0.42) < 0.1
