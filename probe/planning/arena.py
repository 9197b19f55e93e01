"""How much of a GPU torch's allocator takes for tensors, found without a GPU.

The allocator takes more than live tensors need. It keeps a freed block and gives it to a later tensor of at most the
same size. The rest of the block becomes a new free block. Two free neighbours are merged. The rules, and their names
in torch's `c10/cuda/CUDACachingAllocator.h`:

* Sizes are multiples of 512 bytes (`kMinBlockSize`).
* Blocks up to 1 MiB (`kSmallSize`) and larger blocks have separate pools. A tensor gets the smallest free block that is
  large enough.
* That block is split if the rest has 512 bytes or more in a small block, or more than 1 MiB in a large block.
* If no block is large enough, the allocator takes a segment: 2 MiB for small blocks (`kSmallBuffer`), 20 MiB
  (`kLargeBuffer`) for blocks below 10 MiB (`kMinLargeAlloc`). Larger blocks take their own size, rounded up to a
  multiple of 2 MiB (`kRoundLarge`).
"""

from dataclasses import dataclass

MIB = 2**20
UNIT, SMALL = 512, MIB


@dataclass(eq=False)
class Block:
    """A piece of memory that holds one tensor or is free.

    Attributes:
        n_bytes: its size.
        segment: all blocks of its segment, in memory order.
        is_free: whether no tensor uses it.
    """

    n_bytes: int
    segment: "list[Block]"
    is_free: bool = True


class Arena:
    """The memory of one stream, or of recorded work.

    Attributes:
        reserved: bytes taken from the GPU so far.
    """

    def __init__(self) -> None:
        """Start without memory."""
        self.reserved = 0
        self._small: list[list[Block]] = []
        self._large: list[list[Block]] = []

    def take(self, n_bytes: int) -> Block:
        """Return the block of a new tensor."""
        size = -(-n_bytes // UNIT) * UNIT
        segments = self._small if size <= SMALL else self._large
        fitting = [block for segment in segments for block in segment if block.is_free and block.n_bytes >= size]
        block = min(fitting, key=lambda block: block.n_bytes) if fitting else self._reserve(size, segments)
        rest = block.n_bytes - size
        if rest > (SMALL if size > SMALL else 0):
            block.segment.insert(block.segment.index(block) + 1, Block(rest, block.segment))
            block.n_bytes = size
        block.is_free = False
        return block

    def give(self, block: Block) -> None:
        """Free the block of a tensor that no longer exists."""
        block.is_free = True
        segment = block.segment
        at = segment.index(block)
        for left in (at, at - 1):  # the right neighbour first: indices stay valid
            if 0 <= left < len(segment) - 1 and segment[left].is_free and segment[left + 1].is_free:
                segment[left].n_bytes += segment.pop(left + 1).n_bytes

    def _reserve(self, size: int, segments: list[list[Block]]) -> Block:
        segment: list[Block] = []
        block = Block(_segment_bytes(size), segment)
        segment.append(block)
        segments.append(segment)
        self.reserved += block.n_bytes
        return block


def _segment_bytes(size: int) -> int:
    """Return the size of the segment that a block needs."""
    if size <= SMALL:
        return 2 * MIB
    if size < 10 * MIB:
        return 20 * MIB
    return -(-size // (2 * MIB)) * 2 * MIB
