"""Read the text of nvdisasm: instructions, loops, and the global loads that are in flight.

Only tools/cuda_resources and its tests use this. Terms: a *load* is an instruction that reads
global memory (LDG, LD) or copies from it to shared memory (LDGSTS); it is *in flight* from its
issue until an instruction reads or overwrites its destination, where the hardware waits; LDGSTS
is in flight until a DEPBAR. Bulk copies (TMA, UBLKCP) are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+) )?\s*([A-Z][\w.]*)\s*(.*?)\s*;\s*$")
LABEL = re.compile(r"([.$\w]\S*):$")
TARGET = re.compile(r"`\((\S+?)\)")
REGISTER = re.compile(r"(?<![A-Z])R(\d+)((?:\.[a-zA-Z]\w*)*)(\.64)?")
LOADS = {"LDG", "LD", "LDGSTS"}
GLOBAL = {"STG", "ST", *LOADS}
STORES = {"STG", "ST", "STS", "STL", "RED", "REDG", "LDGSTS", "ATOM", "ATOMG", "ATOMS"}
CONVERSIONS = {"F2F", "F2I", "I2F", "I2I", "FRND"}
WIDE_TYPES = {"F64", "S64", "U64"}
TYPES = {"F16", "BF16", "F32", "S8", "U8", "S16", "U16", "S32", "U32", "TF32", *WIDE_TYPES}


@dataclass(eq=False)
class Instruction:
    """One line of a disassembly, such as `@!P0 LDG.E.64 R4, desc[UR8][R2.64+0x10]`."""

    address: int
    guard: str  # "P0", "!P0"; empty without one
    opcode: str
    operands: str
    labels: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        guard = f"@{self.guard} " if self.guard else ""
        return f"{guard}{self.opcode} {self.operands}".strip()

    def __post_init__(self) -> None:
        self.name = self.opcode.partition(".")[0]
        self.is_load = self.name in LOADS
        # Each lane loads or stores 16 bytes or more of global memory.
        self.is_wide_access = self.name in GLOBAL and bool({"128", "256"} & set(self.parts))

    @property
    def parts(self) -> list[str]:
        return self.opcode.split(".")

    @property
    def address_operand(self) -> str:
        """What stands in the last brackets, such as `R2.64+0x10`."""
        return self.operands.rpartition("[")[2].partition("]")[0]

    @property
    def called(self) -> str:
        """The name of the called function; empty for other instructions."""
        target = TARGET.search(self.operands) if self.name == "CALL" else None
        return target[1] if target else ""

    @property
    def targets(self) -> list[str]:
        """The labels that a branch may go to."""
        if self.name == "BRX":
            listed = re.search(r'BRANCH_TARGETS ([^"]+)"', self.operands)
            return listed[1].split(",") if listed else []
        # BRA.DIV leads to a slow copy of the code for warps that are not converged.
        if self.name in {"BRA", "JMP"} and "DIV" not in self.parts:
            return TARGET.findall(self.operands)
        return []

    @property
    def falls_through(self) -> bool:
        if self.name in {"EXIT", "BRA", "JMP"}:
            conditional = bool(self.guard) or re.match(r"!?U?P\d", self.operands) is not None
            return conditional or "DIV" in self.parts
        return self.name not in {"RET", "BRX", "KILL"}

    @cached_property
    def _split_operands(self) -> list[str]:
        return [operand.strip() for operand in self.operands.split(",")]

    @cached_property
    def _destination(self) -> int | None:
        """The position of the destination among the operands."""
        if self.name in {"ATOM", "ATOMG", "ATOMS", "SHFL"}:
            return 1  # after a predicate
        if self.name in STORES or not self._split_operands[0].startswith("R"):
            return None
        return 0 if self.name not in {"CALL", "RET", "BRX", "R2P"} else None

    @property
    def _data_width(self) -> int:
        """Registers of the data of a load or store."""
        return next((int(part) // 32 for part in self.parts if part in {"64", "128", "256"}), 1)

    @cached_property
    def written(self) -> frozenset[int]:
        """The registers that it writes."""
        if self._destination is None:
            return frozenset()
        found = REGISTER.match(self._split_operands[self._destination])
        if not found:
            return frozenset()
        types = [part for part in self.parts if part in TYPES]
        width = self._data_width
        if self.name in CONVERSIONS:
            width = 2 if types and types[0] in WIDE_TYPES else 1
        elif self.name.startswith("D") or self.name == "CS2R" or "WIDE" in self.parts:
            width = 2
        return frozenset(range(int(found[1]), int(found[1]) + width))

    @cached_property
    def read(self) -> frozenset[int]:
        """The registers that it reads."""
        types = [part for part in self.parts if part in TYPES]
        last = len(self._split_operands) - 1
        registers: set[int] = set()
        for i, operand in enumerate(self._split_operands):
            if i == self._destination:
                continue
            for number, suffixes, wide in REGISTER.findall(operand):
                width = 1
                if wide or suffixes.endswith(".64"):
                    width = 2
                elif "[" not in operand and self.name in STORES:
                    width = self._data_width
                elif self.name in {"DADD", "DMUL", "DFMA", "DSETP", "DMNMX"}:
                    width = 2
                elif self.name in CONVERSIONS:
                    width = 2 if types and types[-1] in WIDE_TYPES else 1
                elif "WIDE" in self.parts and i == last:
                    width = 2
                registers.update(range(int(number), int(number) + width))
        return frozenset(registers)


@dataclass(eq=False)
class Block:
    """Instructions that run one after the other."""

    instructions: list[Instruction]
    successors: list[Block] = field(default_factory=list)


@dataclass(eq=False)
class Loop:
    """Blocks of which each reaches each other; `header` is the one that is entered."""

    header: Block
    blocks: list[Block]
    inner: list[Loop] = field(default_factory=list)

    @property
    def address(self) -> int:
        return self.header.instructions[0].address

    @cached_property
    def instructions(self) -> list[Instruction]:
        found = [one for block in self.blocks for one in block.instructions]
        return sorted(found, key=lambda one: one.address)

    @cached_property
    def own_instructions(self) -> list[Instruction]:
        """Its instructions less those of the loops in it."""
        inside = {block for loop in self.inner for block in loop.blocks}
        return [i for block in self.blocks if block not in inside for i in block.instructions]


def read_functions(disassembly: str) -> Iterator[tuple[str, list[Instruction]]]:
    """Yield the name and the instructions of each function in the text of `nvdisasm -c`."""
    for text in re.split(r"^\.text\.", disassembly, flags=re.MULTILINE)[1:]:
        name = re.match(r"[\w$.]+", text)
        if name:
            yield name[0], read_instructions(text)


def read_instructions(text: str) -> list[Instruction]:
    instructions: list[Instruction] = []
    labels: list[str] = []
    for line in text.splitlines():
        found = LINE.match(line)
        if found:
            address, guard, opcode, operands = found.groups()
            instructions.append(
                Instruction(int(address, 16), guard or "", opcode, operands, labels)
            )
            labels = []
            continue
        label = LABEL.match(line)
        if label:
            labels.append(label[1])
        elif "/*" in line:
            raise ValueError(f"unknown form of an instruction: {line.strip()!r}")
    return instructions


def is_library_routine(label: str) -> bool:
    """Whether nvcc added the function, such as `$__internal_0_$__cuda_sm20_div_s64`."""
    return "__cuda_sm" in label


def entry_blocks(blocks: list[Block]) -> list[Block]:
    """The first block, and those of device functions that were not inlined."""
    entries = blocks[:1]
    for block in blocks[1:]:
        labels = [label for label in block.instructions[0].labels if label.startswith("$")]
        if labels and not any(map(is_library_routine, labels)):
            entries.append(block)
    return entries


def control_flow(instructions: list[Instruction]) -> list[Block]:
    """Return the blocks that are reached, the first one first."""
    blocks: list[Block] = []
    starts_block = True
    for one in instructions:
        if starts_block or one.labels:
            blocks.append(Block([]))
        blocks[-1].instructions.append(one)
        starts_block = bool(one.targets) or not one.falls_through
    at_label = {label: block for block in blocks for label in block.instructions[0].labels}
    for i, block in enumerate(blocks):
        last = block.instructions[-1]
        block.successors = [at_label[label] for label in last.targets]
        if last.falls_through and i + 1 < len(blocks):
            block.successors.append(blocks[i + 1])

    reached: dict[Block, None] = {}
    waiting = entry_blocks(blocks)
    while waiting:
        block = waiting.pop()
        if block not in reached:
            reached[block] = None
            waiting += block.successors
    return [block for block in blocks if block in reached]


def components(blocks: Iterable[Block], edges: dict[Block, list[Block]]) -> list[list[Block]]:
    """Return the strongly connected components (Tarjan, without recursion)."""
    order: dict[Block, int] = {}
    lowest: dict[Block, int] = {}
    stack: dict[Block, None] = {}
    found: list[list[Block]] = []
    for root in blocks:
        if root in order:
            continue
        order[root] = lowest[root] = len(order)
        stack[root] = None
        work = [(root, iter(edges[root]))]
        while work:
            block, rest = work[-1]
            for successor in rest:
                if successor not in order:
                    order[successor] = lowest[successor] = len(order)
                    stack[successor] = None
                    work.append((successor, iter(edges[successor])))
                    break
                if successor in stack:
                    lowest[block] = min(lowest[block], order[successor])
            else:
                work.pop()
                if work:
                    parent = work[-1][0]
                    lowest[parent] = min(lowest[parent], lowest[block])
                if lowest[block] == order[block]:
                    component = []
                    while not component or component[-1] is not block:
                        component.append(stack.popitem()[0])
                    found.append(component)
    return found


def find_loops(blocks: list[Block]) -> list[Loop]:
    """Return the outermost loops, with those inside them; loops of one header are one loop."""
    return _loops_among(blocks, {block: block.successors for block in blocks})


def _loops_among(blocks: list[Block], edges: dict[Block, list[Block]]) -> list[Loop]:
    loops = []
    for component in components(blocks, edges):
        if len(component) == 1 and component[0] not in edges[component[0]]:
            continue
        members = set(component)
        entered = {s for block in blocks if block not in members for s in edges[block]} & members
        header = min(entered or members, key=lambda block: block.instructions[0].address)
        inside = {
            block: [s for s in edges[block] if s in members and s is not header]
            for block in component
        }
        ordered = sorted(component, key=lambda block: block.instructions[0].address)
        loops.append(Loop(header, ordered, _loops_among(ordered, inside)))
    return loops


def all_loops(loops: list[Loop]) -> Iterator[Loop]:
    for loop in loops:
        yield loop
        yield from all_loops(loop.inner)


def exclude_each_other(a: Instruction, b: Instruction) -> bool:
    """Whether the guards are P and !P, as of the two sides of a short `if`."""
    return bool(a.guard) and a.guard.lstrip("!") == b.guard.lstrip("!") and a.guard != b.guard


# Loads in flight; of LDGSTS with the number of LDGDEPBAR since, each of which closes a group. No
# kernel waits for all groups but more than 8, so that higher numbers need not be told apart.
MOST_GROUPS = 9
InFlight = frozenset[tuple[Instruction, int]]


def step(flying: InFlight, one: Instruction) -> InFlight:
    """Return the loads in flight after the instruction."""
    if one.is_load:
        return _without_landed(flying, one) | {(one, 0)}
    if not flying:
        return flying
    if one.name == "LDGDEPBAR":
        return frozenset(
            (load, min(age + 1, MOST_GROUPS) if load.name == "LDGSTS" else age)
            for load, age in flying
        )
    if one.name == "DEPBAR":  # "DEPBAR.LE SB0, 0x1": all groups but the newest have landed
        groups = re.search(r"SB0, (0x\w+)$", one.operands)
        left = int(groups[1], 16) if groups else 0
        return frozenset((load, age) for load, age in flying if age <= left)
    return _without_landed(flying, one)


def _without_landed(flying: InFlight, one: Instruction) -> InFlight:
    touched = one.read | one.written
    landed = set()
    for load, age in flying:
        if load.written & touched and (
            load.written & one.read or not exclude_each_other(load, one)
        ):
            landed.add((load, age))
    return flying - landed if landed else flying


def in_flight_beside(flying: InFlight, one: Instruction) -> int:
    """Count the loads in flight with this one, which has just been issued."""
    return sum(not exclude_each_other(load, one) for load, _ in flying)


def most_in_flight(loop: Loop) -> int:
    """Return how many loads are in flight at most, going round the loop; exact up to 2.

    Where branches meet, the loads of both are counted; so 3 and more are upper bounds.
    """
    inside = set(loop.blocks)
    before: dict[Block, InFlight] = dict.fromkeys(loop.blocks, frozenset())
    waiting = dict.fromkeys(loop.blocks)
    most = 0
    while waiting:
        block = next(iter(waiting))
        del waiting[block]
        flying = before[block]
        for one in block.instructions:
            flying = step(flying, one)
            if one.is_load:
                most = max(most, in_flight_beside(flying, one))
        for successor in block.successors:
            if successor in inside and not flying <= before[successor]:
                before[successor] = before[successor] | flying
                waiting[successor] = None
    return most


def main_path(loop: Loop) -> list[Instruction]:
    """Return the way round the loop with the most wide accesses, and of those the shortest.

    It passes over the branches for odd sizes and slow divisions. A loop inside is gone through at
    most once.
    """
    inside = set(loop.blocks)
    finished: list[Block] = []  # each before those that lead to it
    seen = {loop.header}
    work = [(loop.header, iter(loop.header.successors))]
    while work:
        block, rest = work[-1]
        for successor in rest:
            if successor in inside and successor not in seen:
                seen.add(successor)
                work.append((successor, iter(successor.successors)))
                break
        else:
            finished.append(work.pop()[0])
    # For each block, the best way from it to the header: wide accesses, -instructions, blocks.
    ways: dict[Block, tuple[int, int, list[Block]]] = {}
    for block in finished:
        onward = [ways[s] for s in block.successors if s in ways]
        if loop.header in block.successors:
            onward.append((0, 0, []))
        if onward:
            wide, length, blocks = max(onward, key=lambda way: way[:2])
            wide += sum(one.is_wide_access for one in block.instructions)
            ways[block] = (wide, length - len(block.instructions), [block, *blocks])
    if loop.header not in ways:  # a loop with two entries
        return loop.instructions
    return [one for block in ways[loop.header][2] for one in block.instructions]


def most_in_flight_on(path: list[Instruction]) -> int:
    """Return how many loads are in flight at most, going round the path."""
    most = 0
    flying: InFlight = frozenset()
    for one in path + path:
        flying = step(flying, one)
        if one.is_load:
            most = max(most, in_flight_beside(flying, one))
    return most


def streams(loop: Loop) -> bool:
    """Whether the loop itself loads or stores 16 bytes a lane, and no loop inside it does."""
    inside = any(one.is_wide_access for loop in loop.inner for one in loop.instructions)
    return not inside and any(one.is_wide_access for one in loop.own_instructions)


def is_spin(loop: Loop) -> bool:
    """Whether the loop waits for another block: it loads from where it loaded before, no more."""
    own = [one for one in loop.instructions if one.is_load or one.name in STORES]
    if not all(one.is_load and "STRONG" in one.parts for one in own):
        return False
    written = {one.operands.partition(",")[0] for one in loop.instructions}
    return not any(set(re.findall(r"U?R\d+", one.address_operand)) & written for one in own)
