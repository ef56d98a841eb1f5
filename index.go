package caddysse

import (
	"bytes"
	"hash/maphash"
	"time"
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
	newest *block
}

var blockSeed = maphash.MakeSeed()

// hashBlock hashes what equal compares.
func hashBlock(lines []byte, hasID bool, id string) uint64 {
	var h maphash.Hash
	h.SetSeed(blockSeed)
	_, _ = h.Write(lines)
	if hasID {
		_ = h.WriteByte(0)
		_, _ = h.WriteString(id)
	}
	return h.Sum64()
}

// indexed begins to keep an index of what is in the buffer.
func (f *buffer) indexed() {
	if f.index != nil {
		return
	}
	f.index = &blockIndex{byHash: make(map[uint64]indexEntry), byID: make(map[uint64]indexEntry)}
	for _, b := range f.blocks {
		f.index.add(b)
	}
}

func (x *blockIndex) add(b *block) {
	if x == nil || !b.says() || b.told {
		return
	}
	x.byHash[b.hash] = indexEntry{x.byHash[b.hash].count + 1, b}
	if b.id != "" {
		h := maphash.String(blockSeed, b.id)
		x.byID[h] = indexEntry{x.byID[h].count + 1, b}
	}
}

func (x *blockIndex) remove(b *block) {
	if x == nil || !b.says() || b.told {
		return
	}
	removeEntry(x.byHash, b.hash)
	if b.id != "" {
		removeEntry(x.byID, maphash.String(blockSeed, b.id))
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

// twins returns how many kept blocks have the bytes of a hash, and the newest.
func (f *buffer) twins(hash uint64) (count int, newest *block) {
	if f.index == nil {
		return 0, nil
	}
	e := f.index.byHash[hash]
	return e.count, e.newest
}

// withID returns how many kept blocks have an id of the upstream, and the newest.
func (f *buffer) withID(id string) (count int, newest *block) {
	if f.index == nil {
		return 0, nil
	}
	e := f.index.byID[maphash.String(blockSeed, id)]
	return e.count, e.newest
}

// reaches reports whether all that came since a moment is kept.
func (f *buffer) reaches(since time.Time) bool {
	if f.lost == 0 {
		return true
	}
	for _, b := range f.blocks {
		if !b.commentOnly {
			return b.at.Before(since)
		}
	}
	return false
}

// says reports whether a block says something that may be one connection's own,
// which a reconnection time is not.
func (k *block) says() bool { return k.dispatches || k.hasID }

// equal reports whether the upstream sent the same bytes for two blocks.
func (k *block) equal(b *block) bool {
	return k.hash == b.hash && k.hasID == b.hasID && k.id == b.id && bytes.Equal(k.wire[:k.lines], b.wire[:b.lines])
}

// occursOnce reports whether one block only of those kept has the bytes of b.
func (f *buffer) occursOnce(b *block) bool {
	n, _ := f.twins(b.hash)
	return n == 1
}
