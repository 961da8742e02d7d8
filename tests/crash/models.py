# Copyright (c) durable.jobs contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which trees a disk may hold after a crash, given the operations before it: one model for each kind of file system.

A crash comes after any number of operations. What a flush has promised is there. The rest is *pending*, and each model
says which choices of it a disk may hold:

* all of it; none of it; what had been done until an earlier moment (all prefixes);
* all of it but one operation, wherever the model does not say that operations depend on each other;
* a write that is torn at a border of sectors: its beginning is there and its end is not, or the other way round.

``ordered``: ext4 with data=ordered, and XFS. Names, sizes and times go through one journal, in their order, so what
is there of them is a prefix (Documentation/filesystems/ext4/journal.rst, "Data Mode"; XFS:
xfs-delayed-logging-design.rst, "a checkpoint is atomic"). A flush of any file or folder commits the whole journal
before it (jbd2_complete_transaction(), xfs_log_force_seq()). fdatasync(2) leaves the journal alone if the file has
only been overwritten (ext4_fsync_journal() waits for i_datasync_tid; xfs_fsync_seq() ignores XFS_ILOG_TIMESTAMP).
Data is written whenever the kernel likes, each sector by itself. But what makes a file longer counts only with its
new size, which is journaled after the data: so it comes with everything that was journaled before.

``copying``: Btrfs. What is on the disk is the last commit, which is a moment of the past, and after it the effects of
each fsync(2) by itself, from the log of trees: a file with its content, its name, and the new folders above it
(fs/btrfs/tree-log.c, btrfs_log_all_parents(), log_new_ancestors()); a folder with its names. Of a file that was moved
into a folder which was flushed, the old name goes (add_inode_ref()), or stays beside the new one. Content that is not
flushed may be missing from a commit, but is never torn: new blocks take the place of old ones at once.

``loose``: whatever was not flushed may be there or not, each operation by itself. Only rename(2) is atomic. A flush of
a file covers its name, and the folders above it, as far as they are new: the file systems above do that, and F2FS.

``strict``: the same, but a flush of a file does not cover its name, as fsync(2) warns: that takes a flush of the
folder. No file system that Linux has loses as much, so this model is only used where somebody asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.durable.jobs.tests.crash.operations import METADATA, NAMING, Tree

SECTOR = 512
PAGE = 4096
WRITE = "write"


@dataclass(frozen=True)
class State:
    """What is on the disk after a crash.

    ``model``: whose rules allow it.
    ``moment``: how many operations had been done when the power went.
    ``what``: for people to read.
    """

    model: str
    moment: int
    what: str
    tree: Tree


class History:
    """The operations of a protocol, and what their flushes promise.

    :param operations: all of them.
    :param begin: how many of them were on the disk long before.
    :param tears: borders at which a write is torn, at the most.
    :param first: the first moment at which the power may go, if that is later than ``begin``.
    :param between: take also the prefixes of the journal between the shortest and the longest one.
    :param every: combine every choice with every prefix of the journal, and not only with the first and the last one.
    """

    def __init__(self, operations, begin, *, tears, every=False, first=0, between=True):
        self.operations = operations
        self.begin = begin
        self.first = max(begin, first)
        self.tears = tears
        self.every = every
        self.between = between
        self.end = len(operations)
        self.syncs = [at for at in range(begin, self.end) if operations[at].kind == "sync"]
        self.writes = [at for at in range(begin, self.end) if operations[at].kind == WRITE]
        self.fresh = self._fresh()
        self.trees = self._trees()

    def _trees(self):
        """Return the tree after each operation, if nothing is lost."""
        tree, found = Tree(), []
        for at, one in enumerate(self.operations):
            if at >= self.begin:
                found.append(tree.copy())
            tree.do(one)
        return [*found, tree]

    def _fresh(self):
        """Return which operations give a file a new size or blocks, so that fdatasync(2) must commit the journal."""
        fresh, sizes = set(), {}
        for at, one in enumerate(self.operations):
            if one.kind == "create":
                sizes[one.file] = 0
                fresh.add(at)
            elif one.kind in ("truncate", "allocate"):
                sizes[one.file] = one.size
                fresh.add(at)
            elif one.kind == WRITE and one.offset + len(one.data) > sizes.get(one.file, 0):
                sizes[one.file] = one.offset + len(one.data)
                fresh.add(at)
        return fresh

    def flushed(self, write, moment):
        """Tell whether the content of a write is on the disk for sure.

        After a flush that failed, the kernel takes the content for written, and no later flush writes it (Rebello and
        others, "Can Applications Recover from fsync Failures?", ATC 2020), unless its pages have been written again.
        """
        file = self.operations[write].file
        lost = False
        for at in range(write + 1, moment):
            one = self.operations[at]
            if one.file != file:
                continue
            if one.kind == "failed sync":
                lost = True
            elif one.kind == WRITE and lost and _pages(one) >= _pages(self.operations[write]):
                lost = False
                write = at
            elif one.kind == "sync" and one.begun > write and not lost:
                return True
        return False

    def moments(self):
        """Yield each moment at which the power may go, with the writes that are pending then."""
        for moment in range(self.first, self.end + 1):
            yield (
                moment,
                [at for at in self.writes if at < moment and not self.flushed(at, moment)],
            )

    def borders(self, write):
        """Return at which of its bytes a write may be torn: at sectors of its file."""
        one = self.operations[write]
        first = SECTOR - one.offset % SECTOR
        found = list(range(first, len(one.data), SECTOR))
        if self.tears < 2:
            return found[: self.tears]
        if len(found) > self.tears:  # both ends, and some between them
            step = (len(found) - 1) / (self.tears - 1)
            found = [found[round(number * step)] for number in range(self.tears)]
        return found


def _pages(write):
    return set(range(write.offset // PAGE, (write.offset + len(write.data) - 1) // PAGE + 1))


# -- ordered ----------------------------------------------------------------------------------------------------------


def ordered(history):
    """Yield the states that ext4 and XFS allow."""
    for moment, pending in history.moments():
        durable = _journaled(history, moment)
        # What no choice changes is done once.
        sure = min([durable, *pending])
        tree = _until(history, sure)
        ends = (durable, moment)
        for journal in range(durable, moment + 1) if history.between else sorted(set(ends)):
            full = history.every or journal in ends
            yield from _with_choices(history, (tree, sure), (journal, moment), pending, full)


def _journaled(history, moment):
    """Return how many operations are in the journal for sure."""
    durable = history.begin
    for at in history.syncs:
        one = history.operations[at]
        if at >= moment:
            break
        if not one.data_only or any(
            history.operations[made].file == one.file and made in history.fresh
            for made in range(durable, one.begun)
        ):
            durable = max(durable, one.begun)
    return durable


def _with_choices(history, start, moments, pending, full):
    """Yield the states of one prefix of the journal.

    :param start: a tree, and how many operations have been done in it.
    :param moments: how many operations are in the journal, and how many had been done.
    :param full: leave out and tear each write by itself; else there is all that was written, or nothing.
    """
    journal, moment = moments
    # What makes a file longer comes with the journal before it.
    free = [at for at in pending if at < journal or at not in history.fresh]
    bound = set(pending) - set(free)
    for what, missing, torn in _choices(history, free, full):
        tree = start[0].copy()
        for at in range(start[1], moment):
            one = history.operations[at]
            is_missing = at in missing or at in bound
            tree.do(torn.get(at, one), data=not is_missing, metadata=at < journal)
        told = f"of the journal {journal} of {moment} operations; {what}"
        yield State("ordered", moment, told, tree)


def _choices(history, pending, full):
    """Yield what may be missing of pending writes: for people, which are, and which are torn into what."""
    yield "all that was written", set(), {}
    if pending:
        yield "nothing that was not flushed", set(pending), {}
    for at in pending if full else ():
        if len(pending) > 1:
            yield f"without operation {at}", {at}, {}
        one = history.operations[at]
        for border in history.borders(at):
            yield f"operation {at} until byte {border}", set(), {at: one.part(0, border)}
            if at not in history.fresh:
                rest = one.part(border, len(one.data))
                yield f"operation {at} from byte {border} on", set(), {at: rest}


# -- copying ----------------------------------------------------------------------------------------------------------


def copying(history):
    """Yield the states that Btrfs allows."""
    writes = dict(history.moments())
    now = {at: _until(history, at) for at in {history.operations[at].begun for at in history.syncs}}
    for commit in range(history.begin, history.end + 1):
        # Between two flushes nothing else reaches the disk, so the first moment and the last one tell all: more is
        # known then.
        flushes = [at for at in history.syncs if at >= commit]
        spans = list(zip([commit - 1, *flushes], [*flushes, history.end]))
        missing = [set(), set(writes[commit])] + [{at} for at in writes[commit]]
        for left_out in missing if writes[commit] else [set()]:
            tree = _until(history, commit, left_out)
            for flush, last in spans:
                if flush >= commit:
                    _log(history, tree, flush, now)
                what = f"committed after {commit} operations, without {sorted(left_out)}"
                for moment in sorted({flush + 1, last}):
                    yield State("copying", moment, what, tree.copy())
    yield from _with_two_names(history, now)


def _until(history, moment, missing=()):
    """Return the tree after so many operations, of which some have written nothing."""
    first = min(missing, default=moment)
    tree = history.trees[first - history.begin].copy()
    for at in range(first, moment):
        tree.do(history.operations[at], data=at not in missing)
    return tree


def _log(history, tree, at, now, keep_names=False):
    """Do to a tree what the log of a flush does."""
    flush = history.operations[at]
    source = now[flush.begun]
    if flush.file not in source.nodes:
        return
    _add(tree, source, flush.file, whole=True)
    if not keep_names:
        _forget_names(tree, source, flush.file)
    _link_above(tree, source, flush.file)
    logged = source.nodes[flush.file].entries
    for name, file in tree.nodes[flush.file].entries.items():
        if name not in logged:
            tree.unlink(flush.file, name, file)
    for name, file in logged.items():
        _add(tree, source, file, whole=False)
        if not keep_names:
            _forget_names(tree, source, file)
        tree.link(flush.file, name, file)


def _add(tree, source, file, *, whole):
    """Let a tree have a file; with its content as it is in another tree, or as far as it was there before."""
    theirs = source.nodes[file]
    tree.add(file, theirs.mode, theirs.time)
    if whole:
        ours = tree.nodes[file]
        tree.nodes[file] = theirs.changed(entries=ours.entries)


def _forget_names(tree, source, file):
    """Take the names from a file that it has not any more."""
    for number, node in list(tree.nodes.items()):
        for name, one in node.entries.items():
            known = source.nodes.get(number)
            if one == file and (known is None or known.entries.get(name) != file):
                tree.unlink(number, name, file)


def _link_above(tree, source, file):
    """Give a file its names, and the folders above it theirs."""
    for number, node in source.nodes.items():
        for name, one in node.entries.items():
            there = number in tree.nodes and tree.nodes[number].entries.get(name) == file
            if one == file and not there:
                _add(tree, source, number, whole=False)
                tree.link(number, name, file)
                _link_above(tree, source, number)


def _with_two_names(history, now):
    """Yield what is left if a file keeps its old name when the log of its new folder is read."""
    for at in history.syncs:
        for commit in range(history.begin, at + 1):
            renamed = [
                one
                for one in history.operations[commit:at]
                if one.kind == "rename" and one.folder != one.old_folder
            ]
            if renamed:
                tree = _until(history, commit)
                for number in (one for one in history.syncs if commit <= one <= at):
                    _log(history, tree, number, now, keep_names=True)
                what = f"committed after {commit} operations, old names stay"
                following = [one for one in history.syncs if one > at]
                for moment in sorted({at + 1, min(following, default=history.end)}):
                    yield State("copying", moment, what, tree)


# -- loose and strict -------------------------------------------------------------------------------------------------


def loose(history):
    """Yield the states of a file system that keeps no order, and that lets a flush of a file cover its path."""
    paths = {flush: _path(history, flush) for flush in history.syncs}
    return _without_order(history, "loose", paths)


def strict(history):
    """Yield the states that fsync(2) allows to the letter."""
    return _without_order(history, "strict", {})


def _path(history, flush):
    """Return by which names a flushed file can be reached: of each, its folder, itself and what it names."""
    tree = _until(history, history.operations[flush].begun)
    wanted, found = {history.operations[flush].file}, set()
    while wanted:
        above = {
            (number, name, file)
            for number, node in tree.nodes.items()
            for name, file in node.entries.items()
            if file in wanted
        }
        found |= above
        wanted = {number for number, _name, _file in above}
    return found


def _without_order(history, model, paths):
    for moment, writes in history.moments():
        pending = [
            at
            for at in range(history.begin, moment)
            if at in writes
            or (history.operations[at].kind in METADATA and _may_miss(history, at, moment, paths))
        ]
        yield _chosen(history, model, moment, "nothing that was not flushed", set(pending))
        untimed = {at for at in history.writes if _may_lose_time(history, at, moment)}
        yield _chosen(history, model, moment, "no times", set(), untimed)
        for number, at in enumerate(pending):
            yield _chosen(history, model, moment, f"without operation {at}", {at})
            others = set(pending) - {at}
            told = "of what was not flushed only"
            yield _chosen(history, model, moment, f"{told} operation {at}", others)
            rest = set(pending[number:])
            yield _chosen(history, model, moment, f"{told} all before {at}", rest)


def _may_miss(history, at, moment, paths):
    """Tell whether a change of names, sizes or times is pending."""
    one = history.operations[at]
    wanted = one.folder if one.kind in NAMING else one.file
    for number in history.syncs:
        flush = history.operations[number]
        if number >= moment or flush.begun <= at:
            continue
        if one.kind in NAMING and (one.folder, one.name, one.file) in paths.get(number, ()):
            return False
        is_for_times = one.kind in ("utime", "chmod")
        if flush.file == wanted and not (flush.data_only and is_for_times):
            return False
    return True


def _may_lose_time(history, write, moment):
    file = history.operations[write].file
    return write < moment and not any(
        write < history.operations[flush].begun
        and history.operations[flush].file == file
        and not history.operations[flush].data_only
        for flush in history.syncs
        if flush < moment
    )


def _chosen(history, model, moment, what, missing, untimed=frozenset()):
    first = min([*missing, *untimed], default=moment)
    tree = _until(history, first)
    for at in range(first, moment):
        one = history.operations[at]
        if at not in missing:
            tree.do(one, metadata=at not in untimed)
        elif one.kind == "create":  # the file may get another name later
            tree.add(one.file, one.mode, one.time)
    return State(model, moment, what, tree)


MODELS = {"ordered": ordered, "copying": copying, "loose": loose, "strict": strict}
USUAL = ("ordered", "copying", "loose")
