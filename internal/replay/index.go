package replay

import (
	"hash/maphash"
)

// blockIndex finds the kept blocks of a replay buffer by their bytes and by
// their ids. It is there only while two connections are compared. Comments and
// gap events are not in it. Its methods accept nil.
type blockIndex struct {
	byHash map[uint64]indexEntry
	byID   map[uint64]indexEntry // by the hash of the upstream's id
}

// indexEntry is what is kept under one hash.
type indexEntry struct {
	count  int
	newest *Block
}

func (x *blockIndex) add(b *Block) {
	if x == nil || !b.Says() || b.Told {
		return
	}
	x.byHash[b.Hash] = indexEntry{x.byHash[b.Hash].count + 1, b}
	if b.ID != "" {
		h := maphash.String(blockSeed, b.ID)
		x.byID[h] = indexEntry{x.byID[h].count + 1, b}
	}
}

func (x *blockIndex) remove(b *Block) {
	if x == nil || !b.Says() || b.Told {
		return
	}
	removeEntry(x.byHash, b.Hash)
	if b.ID != "" {
		removeEntry(x.byID, maphash.String(blockSeed, b.ID))
	}
}

// removeEntry takes the oldest block of a hash out of an index.
func removeEntry(m map[uint64]indexEntry, hash uint64) {
	e := m[hash]
	if e.count--; e.count <= 0 {
		delete(m, hash)
		return
	}
	m[hash] = e
}
