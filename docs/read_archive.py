#!/usr/bin/env python3
"""Reads a backup in a folder. Written from archive-format.md alone; shares no code with kafka-backup. Prints records as
`kafka-backup cat` does, one a line, and checks all that it passes: checksums, digests, chains, catalogs, savepoints.
Problems go to stderr, one a line. Exit code: 0 sound, 3 undecided, 4 damage, 5 a hole."""
import argparse, base64, collections, datetime, gzip, io, itertools, json, os, re, struct, sys
import cramjam, google_crc32c, xxhash  # pip install cramjam google-crc32c xxhash
from pathlib import Path
LAST, NO_TIME, found = 2**63 - 1, -(2**63), {0}
Sidecar = collections.namedtuple("Sidecar", "topic_id partition first next length digest sealed_at kind batches"
    " converted records first_record last_record max_time min_time entries epochs aborted undecided note")
Batch = collections.namedtuple("Batch", "base length epoch magic crc attributes last_delta base_time max_time producer"
    " producer_epoch sequence count body")

def problem(code, what, where):
    found.add(code)
    print({0: "note", 3: "undecided", 4: "damage", 5: "hole"}[code] + f": {what} ({where})", file=sys.stderr)
def names(folder, form=".*"):
    return sorted(name for name in os.listdir(folder) if re.fullmatch(form, name)) if os.path.isdir(folder) else []
def sealed(path, **told):
    """An object of JSON; {} where it is not what it was, or says otherwise than its name does."""
    data = Path(path).read_bytes()
    seal = re.search(rb',\n"checksum": "([0-9a-f]{8})"\n}\n\Z', data)
    value = json.loads(data) if seal and int(seal[1], 16) == google_crc32c.value(data[: seal.start(1)]) else {}
    return value if value and value | told == value else problem(4, "not what it was, or another object", path) or {}
def sidecar(path):
    data, at, lists = Path(path).read_bytes(), 133, []
    if data[:8] not in (b"KBINDEX1", b"KBINDEX2") or int.from_bytes(data[-4:], "big") != google_crc32c.value(data[:-4]):
        return problem(4, "no sidecar, or its checksum does not hold", path)
    for form in (">qQqqq", ">iq", ">qqq", ">qqq", ">c"):  # entries, leader epochs, aborted, undecided, note
        start, at = at + 4, at + 4 + struct.unpack_from(">I", data, at)[0] * struct.calcsize(form)
        lists.append(list(struct.iter_unpack(form, data[start:at])))
    return Sidecar(*struct.unpack_from(">16siqqQ16sqBQQQqqqq", data, 8), *lists)
def batches(log, path):
    at = 0
    while at < len(log):
        end = at + 12 + struct.unpack_from(">i", log, at + 8)[0] if at + 61 <= len(log) else 0
        batch = Batch(*struct.unpack_from(">qiibIhiqqqhii", log, at), log[at + 61 : end]) if end >= at + 61 else None
        if not batch or end > len(log) or batch.magic != 2 or batch.crc != google_crc32c.value(log[at + 21 : end]):
            return problem(4, f"no batch at position {at}, or its checksum does not hold", path)
        yield batch
        at = end
def unpack(codec, body):
    out, at = b"", 16
    while codec == 2 and body[:8] == b"\x82SNAPPY\0" and at < len(body):  # Xerial's framing: blocks behind their lengths
        start, at = at + 4, at + 4 + struct.unpack_from(">i", body, at)[0]
        out += bytes(cramjam.snappy.decompress_raw(body[start:at]))
    plain = bytes, gzip.decompress, cramjam.snappy.decompress_raw, cramjam.lz4.decompress, cramjam.zstd.decompress
    return out or bytes(plain[codec](body))
def records(batch):  # yields (offset, time, key, value, headers); the layout is Kafka's
    data = io.BytesIO(unpack(batch.attributes & 7, batch.body) if batch.count else b"")
    def varint(value=0, shift=0):
        byte = data.read(1)[0]
        value |= (byte & 127) << shift
        return varint(value, shift + 7) if byte > 127 else (value >> 1) ^ -(value & 1)
    def field():
        size = varint()
        return data.read(size) if size >= 0 else None
    for _ in range(batch.count):
        varint(), data.read(1)  # the record's length and attributes
        time, delta, key, value = varint(), varint(), field(), field()
        headers = [(field(), field()) for _ in range(varint())]
        yield batch.base + delta, batch.max_time if batch.attributes & 8 else batch.base_time + time, key, value, headers
def segment(folder, first, sidecars, partition):
    """(sidecar, visible records) of a log; None where one of them is not what it was."""
    path, visible, log = f"{folder}/{first:020}.log", [], Path(f"{folder}/{first:020}.log").read_bytes()
    name = f"{first:020}.{len(log)}-{xxhash.xxh3_128_hexdigest(log)}.index"
    told = sidecar(f"{folder}/{name}") if name in sidecars else None
    if not told or (*partition, first, name) != (*told[:3], f"{told.first:020}.{told.length}-{told.digest.hex()}.index"):
        return problem(4, "no sound sidecar fits the log", path)
    for batch in batches(log, path):
        is_of = lambda t: batch.attributes & 16 and t[0] == batch.producer and t[1] <= batch.base <= (LAST, t[2])[t[2] >= 0]
        if any(map(is_of, told.undecided)) and not batch.attributes & 32:
            problem(3, f"nobody knows if offset {batch.base} was aborted; left out", path)
        elif not any(map(is_of, told.aborted)) and not batch.attributes & 32:
            visible += [record for record in records(batch) if record[0] >= first]
    return told, visible
def walk(folder, fork_end, protected):
    """Goes along a chain: its segments up to the first damage or hole, and where it ends."""
    logs = [int(name[:20]) for name in names(folder, r"\d{20}\.log")]
    sidecars = names(folder, r"\d{20}\.\d+-[0-9a-f]{32}\.index")
    topic_id, index = folder.split("/")[-2], int(re.split("[/@]", folder)[-1 if fork_end is None else -2])
    partition = base64.urlsafe_b64decode(topic_id + "==") if topic_id != "_" else bytes(16), index
    at, segments, sound = fork_end, [], True
    if names(folder, "begin.json"):
        begin = sealed(f"{folder}/begin.json", topic_id=topic_id, partition=index).get("offset", LAST)
        at = begin if begin < LAST and begin <= min(logs, default=begin) else None
    while ahead := [first for first in logs if at is None or first >= at]:
        first, read = ahead[0], segment(folder, ahead[0], sidecars, partition)
        at = 0 if at is None and read and read[0].kind == 0 else at  # no chain begins with what goes on from another
        sound = sound if at is None or at >= first else problem(5, f"no segment covers [{at}, {first})", folder)
        segments += [read] if (sound := sound and read is not None) else []
        ends = [read[0]] if read else [sidecar(f"{folder}/{name}") for name in sidecars if int(name[:20]) == first]
        at = ends[0].next if len(ends) == 1 and ends[0] else min(ahead[1:], default=max(protected, first + 1))
    end, beyond = at or 0, [int(name[:20]) for name in sidecars if int(name[:20]) >= (at or 0)]
    reach = max([protected, catalogs(folder, [told for told, _ in segments], end if sound else -1), *beyond])
    if reach > end:
        problem(5, f"no segment covers [{end}, {reach}), which was there", folder)
    elif beyond:
        problem(0, f"unfinished: a sidecar at {end} without its log", folder)
    return segments, end
def catalogs(folder, chain, end):
    """Checks the catalogs over a chain, each a function of its sidecars; returns how far other ones reach."""
    there = {f"{level}/{name}" for level in names(f"{folder}/catalog") for name in names(f"{folder}/catalog/{level}")}
    row = lambda s: struct.pack(">qqQ16sqBBiQQQqqqqq", *s[2:8], bool(s.aborted) + 2 * bool(s.undecided),
        s.epochs[-1][0] if s.epochs else -1, *s[8:13], s.entries[0][2] if s.max_time != NO_TIME else NO_TIME, *s[13:15])
    for level, at in ((level, at) for level in range(1, 9) for at in range(0, len(chain) - 6**level + 1, 6**level)):
        part = chain[at : at + 6**level]
        path = f"{level}/{part[0].first:020}-{part[-1].next:020}"
        notes = [(n, b"".join(c for (c,) in s.note)) for n, s in enumerate(part) if s.kind == 2]
        body = struct.pack(">8s16siBqqI", b"KBCATAL1", *part[0][:2], level, part[0].first, part[-1].next, len(part))
        notes = [struct.pack(">I", len(notes)), *(struct.pack(">II", n, len(note)) + note for n, note in notes)]
        body += b"".join([*map(row, part), *notes])
        told = Path(f"{folder}/catalog/{path}").read_bytes() if path in there else None
        if told != body + struct.pack(">I", google_crc32c.value(body)) and (path in there or at + len(part) < len(chain)):
            problem(4, "it is missing, or not what its sidecars make it", f"{folder}/catalog/{path}")
        there.discard(path)
    for path in (path for path in there if int(path[-20:]) <= end):
        problem(4, "no such catalog belongs here", f"{folder}/catalog/{path}")
    return max([int(path[-20:]) for path in there], default=0)
def over(full, changed, gone):
    """The topics of a full savepoint with what has changed of them, partition by partition, and without what is gone."""
    number = lambda of: of if type(of) is int else of[0] if type(of) is list else of["partition"]
    flat = lambda topics: {(t["topic"], t["topic_id"], number(of)): of for t in topics for of in t["partitions"]}
    told = flat(full) | flat(changed)
    by_topic = itertools.groupby(sorted(told.keys() - flat(gone).keys()), lambda key: key[:2])
    return [{"topic": t, "topic_id": i, "partitions": [told[key] for key in keys]} for (t, i), keys in by_topic]
def resolved(point, full):
    """All that a savepoint stands for; a full one is its own."""
    gone = point.pop("gone", {"groups": [], "topics": [], "offsets": []})
    groups, fewer = {of["group"]: of for of in full["groups"]}, {of["group"]: of["offsets"] for of in gone["offsets"]}
    for name, of in ((of["group"], of) for of in point["groups"]):
        groups[name] = of | {"offsets": over(groups.get(name, of)["offsets"], of["offsets"], fewer.get(name, []))}
    groups = [groups[name] for name in sorted(groups.keys() - gone["groups"])]
    return point | {"topics": over(full["topics"], point["topics"], gone["topics"]), "groups": groups}
def savepoints(root, print_them):
    """Checks the savepoints; returns what they knew to be archived: {(topic, id, chain): next}."""
    held, listed, fulls = collections.Counter(), names(f"{root}/savepoints"), {}
    for name in listed:
        point = sealed(f"{root}/savepoints/{name}", name=name)
        base = point.get("full")
        for other in {base} - {None, *fulls} | {point.get("previous")} - {None, *listed}:
            problem(4, f"the savepoint {other} that it follows on is missing, or not full", f"{root}/savepoints/{name}")
        for of, told in ((of, end["archived"]) for of in point.get("topics", ()) for end in of["partitions"]):
            held |= {(of["topic"], of["topic_id"], told["chain"]): told["next"]} if told else {}
        fulls |= {name: point} if point and not base else {}
        show(**resolved(point, fulls[base or name])) if print_them and (base or name) in fulls else None
    return held
def timeline(folder, topic, topic_id, held):
    """A topic's chains, {(partition, fork): (segments, end)}, forks as (epoch, end); when it was seen; when last alive."""
    form, chains, numbers = r"(\d+)(?:@(-?\d+)-(\d+))?", {}, [int(n[6:-5]) for n in names(folder, r"topic-\d+\.json")]
    problem(4, "a topic object is missing", folder) if len(numbers) <= max(numbers, default=-1) else None
    told = [sealed(f"{folder}/topic-{n}.json", number=n, name=topic, topic_id=topic_id) for n in numbers]
    seen = [datetime.datetime.fromisoformat(t["seen_at"]).timestamp() * 1000 for t in told if t]
    for name in {*names(folder, form), *(chain for t, i, chain in held if (t, i) == (topic, topic_id))}:
        index, *fork = (int(part) for part in re.fullmatch(form, name).groups() if part)
        chains[index, tuple(fork)] = walk(f"{folder}/{name}", fork[1] if fork else None, held[topic, topic_id, name])
    ends = [told.sealed_at for segments, _ in chains.values() for told, _ in segments[-1:]]
    return chains, max(seen, default=0), max(seen + ends, default=0)
def way(forks, fork):
    """The lineage of a fork, or of () for the partition itself: [(chain, first, next)] in the order of offsets."""
    parts, end = [], LAST
    while fork:
        parts, end = [(fork, fork[1], end), *parts], fork[1]
        fork = max([other for other in forks if other[0] < fork[0] and other[1] <= fork[1]], default=())
    return [((), 0, end), *parts]

show = lambda **told: print(json.dumps(told, ensure_ascii=False, separators=(",", ":")))
def text(data):
    told = None if data is None else data.decode(errors="surrogateescape")
    return {"base64": base64.b64encode(data).decode()} if told and re.search("[\udc80-\udcff]", told) else told
parser = argparse.ArgumentParser(description=__doc__)
for name in ("path", "backup_id", "--topic", "--partition", "--fork"):
    parser.add_argument(name, metavar={"--topic": "TOPIC[@ID]", "--fork": "EPOCH-END"}.get(name))
for name in ("--list", "--savepoints"):
    parser.add_argument(name, action="store_true", help="print these, not the records")
args = parser.parse_args()
root, asked = f"{args.path}/{args.backup_id}", tuple(map(int, re.findall(r"^-?\d+|\d+$", args.fork or "")))
if not names(root, "backup.json"): sys.exit(f"there is no backup {root}")
sealed(f"{root}/backup.json", format=1, backup_id=args.backup_id, envelope="none")
held = savepoints(root, args.savepoints)
for topic in sorted({*names(f"{root}/topics"), *(topic for topic, _, _ in held)}):
    ids = sorted({*names(f"{root}/topics/{topic}"), *(i for t, i, _ in held if t == topic)})
    timelines = {i: timeline(f"{root}/topics/{topic}/{i}", topic, i, held) for i in ids}
    newest = max(ids, key=lambda i: timelines[i][1 if all(told[1] for told in timelines.values()) else 2])
    for topic_id, chains, key in ((i, timelines[i][0], key) for i in ids for key in sorted(timelines[i][0])):
        (index, fork), (segments, end), of = key, chains[key], lambda fork: chains.get((index, fork), ([], 0))
        forks = [fork for other, fork in chains if other == index and fork and of(fork)[0]]
        if fork in forks and of(way(forks, fork)[-2][0])[1] < fork[1]:
            problem(5, f"the fork {index}@{fork} goes on from what is not held", f"{root}/topics/{topic}/{topic_id}")
        if args.list: show(topic=topic, topic_id=topic_id, partition=index, fork=fork, next=end, segments=len(segments))
        chosen = asked if asked in forks else max(forks, default=())
        is_asked = args.topic in (topic, None) if topic_id == newest else args.topic == f"{topic}@{topic_id}"
        if fork != chosen or not is_asked or args.partition not in (None, str(index)) or args.list or args.savepoints:
            continue
        printed = ((r, *cut) for part, *cut in way(forks, chosen) for _, rs in of(part)[0] for r in rs)
        for (offset, time, key, value, headers), first, end in printed:
            if first <= offset < end:
                show(topic=topic, partition=index, offset=offset, timestamp=time, key=text(key), value=text(value),
                    headers=[{"key": text(name), "value": text(content)} for name, content in headers])
sys.exit(next(code for code in (4, 5, 3, 0) if code in found))
