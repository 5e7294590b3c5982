"""The smallest file that runs: `.trim`, entropy-coded. `docs/format.md` says what is in it."""

from trimtab.store.pack import Packed as Packed
from trimtab.store.pack import header_of as header_of
from trimtab.store.pack import load as load
from trimtab.store.pack import pack as pack
