"""From the seconds that scripts/bench_features.py measured to rows, ratios, goals and tables.

Pure functions of a few plain dictionaries, so that scripts/test_bench_features.py can check the arithmetic. A *row* as
it is measured: `key`, `name`, `scope` ("end to end" or "engine only"), `set` (the JPEG set's name, None for an engine
alone), `secs` (a number a round) and, for the command of this project, `total_secs`, `cached_secs`, `peak_bytes` and
`least_cosine` where they are known. It must not know how any of them came about.
"""

import statistics
from functools import partial

END_TO_END, ENGINE_ONLY = "end to end", "engine only"
TORCH_TF32 = "torch cuda files tf32"
# What rates are divided by, by the device.
RATIOS = {
    "cpu": {"of_raw": "of the raw engine", "of_keras": "of Keras"},
    "cuda": {"of_torch_tf32": "of PyTorch, TF32"},
}


def rates(row, images):
    """Images a second, one a round."""
    return [images / secs for secs in row["secs"]]


def finished(rows, images, device="cpu"):
    """The rows with `images_per_sec`, its `low` and `high`, and ratios to the raw engine and to Keras on these files.

    The raw engine is whichever is faster of one session and a session a core.

    An engine alone has no files: it is compared with Keras on the first set. On CUDA the ratio is to PyTorch in TF32,
    which reads the first set: rows of another have none.
    """
    done = [dict(row) for row in rows]
    for row in done:
        every = rates(row, images)
        row |= {"images_per_sec": statistics.median(every), "low": min(every), "high": max(every)}
    found = {(row["key"], row["set"]): row for row in done}
    raw = raw_engine(found)
    first_keras, torch_tf32 = (next((row for row in done if row["key"] == key), None) for key in ("keras", TORCH_TF32))
    for row in done:
        bases = {
            "of_raw": raw,
            "of_keras": found.get(("keras", row["set"])) if row["set"] else first_keras,
            "of_torch_tf32": found.get((TORCH_TF32, row["set"])) if row["set"] else torch_tf32,
        }
        for name in RATIOS[device]:
            row[name] = row["images_per_sec"] / bases[name]["images_per_sec"] if bases[name] else None
        for total in ["total_secs", "cached_secs"]:
            if row.get(total):
                row[f"median_{total}"] = statistics.median(row[total])
    return done


def raw_engine(found):
    measured = [found[key, None] for key in ("raw", "raw-split") if (key, None) in found]
    return max(measured, key=lambda row: row["images_per_sec"], default=None)


def goals(rows, sets, device="cpu"):
    """What is to be reached, as `name`, `least`, `measured` (None: not measured), its `low` and `high` over the rounds.

    A ratio is that of two medians; `low` and `high` are those of the ratios within a round.
    """
    of_device = {"cpu": cpu_goals, "cuda": cuda_goals}[device]
    listed = of_device({(row["key"], row["set"]): row for row in rows}, *sets[:2])
    return [goal | {"reached": reached(goal)} for goal in listed if goal]


def cpu_goals(found, small, large=None):
    speed, cosine, raw = partial(speed_goal, found), partial(cosine_goal, found), raw_engine(found)
    raw = raw and (raw["key"], None)
    return [
        speed(f"ours / raw engine, {small} JPEGs", 0.95, ("ours", small), raw),
        speed(f"ours / raw engine, {large} JPEGs", 0.92, ("ours", large), raw) if large else None,
        speed(f"ours / Keras end to end, {small} JPEGs", 1.35, ("ours", small), ("keras", small)),
        speed(f"ours / Keras end to end, {large} JPEGs", 1.35, ("ours", large), ("keras", large)) if large else None,
        cached(found.get(("ours", small))),
        speed("ours, OpenVINO bf16 / Keras end to end", 3, ("ours-openvino-bf16", small), ("keras", small)),
        cosine("ours, OpenVINO bf16: least cosine with fp32", 0.9999, ("ours-openvino-bf16", small)),
        speed("ours, int8 / ours", 3, ("ours-int8", small), ("ours", small)),
    ]


def cuda_goals(found, small, _large=None):
    tf32, torch = ("ours-cuda-tf32", small), (TORCH_TF32, small)
    return [
        speed_goal(found, "ours, CUDA tf32 / PyTorch TF32 DataLoader end to end", 1, tf32, torch),
        cached(found.get(("ours-cuda-fp32", small))),
        cosine_goal(found, "ours, CUDA tf32: least cosine with fp32", 0.9999, tf32),
    ]


def speed_goal(found, name, least, one, other):
    one, other = found.get(one), found.get(other)
    goal = {"name": name, "least": least, "measured": None}
    if one and other:
        each = [theirs / ours for ours, theirs in zip(one["secs"], other["secs"])]
        ratio = one["images_per_sec"] / other["images_per_sec"]
        goal |= {"measured": ratio, "low": min(each), "high": max(each)}
    return goal


def cosine_goal(found, name, least, row):
    row = found.get(row)
    return {"name": name, "least": least, "measured": row.get("least_cosine") if row else None}


def cached(ours):
    """How much faster the whole command is when everything is in the store."""
    goal = {"name": "whole command, fully cached: times as fast as the first", "least": 100, "measured": None}
    if ours and ours.get("cached_secs"):
        each = [first / again for first, again in zip(ours["total_secs"], ours["cached_secs"])]
        ratio = statistics.median(ours["total_secs"]) / statistics.median(ours["cached_secs"])
        goal |= {"measured": ratio, "low": min(each), "high": max(each)}
    return goal


def reached(goal):
    return None if goal["measured"] is None else goal["measured"] >= goal["least"]


# ---- tables -------------------------------------------------------------------------------------


def head(device):
    return ["", "what", "JPEGs", "images/s", "lowest to highest", *RATIOS[device].values()]


def cells(row, device):
    def ratio(value):
        return "" if value is None else f"{value:.2f}"

    spread = f"{row['low']:.1f} to {row['high']:.1f}"
    speed = f"{row['images_per_sec']:.1f}"
    ratios = [ratio(row[name]) for name in RATIOS[device]]
    return [row["name"], row["scope"], row["set"] or "none", speed, spread, *ratios]


def command_lines(rows):
    """What else is known of this project's own command, a line a row."""
    lines = []
    for row in rows:
        if "median_total_secs" not in row:
            continue
        line = f"{row['name']}, {row['set']}: whole command {row['median_total_secs']:.2f} s"
        if "median_cached_secs" in row:
            line += f", again with all cached {row['median_cached_secs']:.3f} s"
        if row.get("peak_bytes"):
            line += f", peak memory {row['peak_bytes'] / 1e6:.0f} MB"
        if row.get("engine"):
            line += f", on {row['engine']}, {row['provider']} provider"
        if row.get("arrangement"):
            line += ", {sessions} x {threads_each} threads in the last round".format(**row["arrangement"])
        lines.append(line)
    for row in rows:
        if row.get("least_cosine") is not None:
            lines.append(f"{row['name']}: least cosine with {row['compared_with']} {row['least_cosine']:.7f}")
    return lines


def goal_lines(listed):
    lines = []
    for goal in listed:
        digits = 7 if 0.99 < goal["least"] < 1 else 3 if goal["least"] < 2 else 2
        told = f"goal: {goal['name']} at least {goal['least']:g}: "
        if goal["measured"] is None:
            lines.append(told + "not measured")
            continue
        spread = f" ({goal['low']:.{digits}f} to {goal['high']:.{digits}f})" if "low" in goal else ""
        word = "reached" if goal["reached"] else "MISSED"
        lines.append(f"{told}{goal['measured']:.{digits}f}{spread}, {word}")
    return lines


def heading(result):
    machine, settings = result["machine"], result["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return [
        f"{result['date']}, {machine['processor']}, {settings['threads']} of {machine['cores']} cores"
        f" ({' '.join(machine['vector_instructions']) or 'no wide vectors'}), {machine['memory_bytes'] / 1e9:.0f} GB,"
        f" load {machine['load_at_start']:.1f} at the start",
        *([f"GPU: {machine['gpu']}"] if machine["gpu"] else []),
        versions,
        f"{settings['backbone']}, {settings['images']} images, batches of {settings['batch']}, medians of"
        f" {settings['rounds']} interleaved rounds",
    ]


def plain(result):
    """For the terminal."""
    device = result["settings"]["device"]
    table = [head(device), *(cells(row, device) for row in result["rows"])]
    widths = [max(map(len, column)) for column in zip(*table)]

    def line(texts):
        padded = [t.ljust(w) if n < 3 else t.rjust(w) for n, (t, w) in enumerate(zip(texts, widths))]
        return "  ".join(padded).rstrip()

    return "\n".join([
        *heading(result), "", *map(line, table), "", *command_lines(result["rows"]), "", *goal_lines(result["goals"]),
    ])


def markdown(result):
    """The same for a README."""
    device = result["settings"]["device"]
    table = [head(device), *(cells(row, device) for row in result["rows"])]
    names, *rows = ["| " + " | ".join(texts) + " |" for texts in table]
    ruler = "|---" * len(head(device)) + "|"
    lines = [f"{line}  " for line in heading(result)]
    listed = [f"- {line}" for line in [*command_lines(result["rows"]), *goal_lines(result["goals"])]]
    return "\n".join([*lines, "", names, ruler, *rows, "", *listed])
