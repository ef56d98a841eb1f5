package stream

import (
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"
)

// crowdSize is how many streams of one path with one subscriber each make the
// gateway tell what keeps them apart: probably something that does not matter
// to the application, so that nothing is shared.
const crowdSize = 100

// maxCrowds bounds how many paths are counted and told, because clients choose
// them.
const maxCrowds = 4096

// crowd counts the streams of one path.
type crowd struct {
	streams int
	ask     int // look into it when there are more than so many
}

// partHash is a part of a stream's key. It tells the value from others, and
// nothing about it.
type partHash struct {
	name string
	sum  uint64
}

var partSeed = maphash.MakeSeed()

// hashParts hashes the parts of a key, parameters of the query one by one.
func hashParts(parts []Part) []partHash {
	hashes := make([]partHash, 0, len(parts))
	for _, part := range parts {
		if part.Name != "query" {
			hashes = append(hashes, partHash{part.Name, maphash.String(partSeed, part.Value)})
			continue
		}
		for pair := range strings.SplitSeq(part.Value, "&") {
			switch name, value, named := strings.Cut(pair, "="); {
			case named && name != "" && strings.Trim(value, "=") != "":
				hashes = append(hashes, partHash{"query " + name, maphash.String(partSeed, value)})
			case pair != "": // a value, which may be a secret: it is not to be told
				hashes = append(hashes, partHash{"query", maphash.String(partSeed, pair)})
			}
		}
	}
	return hashes
}

// pathOf names the path of a request, for counting: what is in the key and
// neither query, header nor user.
func pathOf(parts []Part) string {
	var path strings.Builder
	for _, part := range parts {
		switch part.Name {
		case "place", "host", "path":
			path.WriteString(part.Value)
			path.WriteByte(0)
		}
	}
	return path.String()
}

// joinCrowdLocked counts a new stream, and tells once for each path when many
// have one subscriber each.
func (h *Hub) joinCrowdLocked(s *Stream) {
	c := h.crowds[s.path]
	if c == nil {
		if len(h.crowds) >= maxCrowds {
			return
		}
		c = &crowd{ask: crowdSize}
		h.crowds[s.path] = c
	}
	c.streams++
	if c.streams <= c.ask {
		return
	}
	c.ask *= 2 // not at every stream from here on
	lone := h.loneLocked(s.path)
	if _, told := h.told[s.path]; told || len(lone) < crowdSize || len(h.told) >= maxCrowds {
		return
	}
	h.told[s.path] = struct{}{}
	names, unique := differing(lone)
	s.Log().Info("many streams of this path have one subscriber each: nothing is shared",
		zap.Int("streams", len(lone)), zap.Strings("kept_apart_by", names), zap.Strings("never_twice", unique),
		zap.String("option", remedy(names)))
}

// leaveCrowdLocked takes a stream out of the count.
func (h *Hub) leaveCrowdLocked(s *Stream) {
	if c := h.crowds[s.path]; c != nil {
		if c.streams--; c.streams <= 0 {
			delete(h.crowds, s.path)
		}
	}
}

// loneLocked returns the streams of a path that have one subscriber.
func (h *Hub) loneLocked(path string) (lone []*Stream) {
	for _, streams := range h.streams {
		for _, s := range streams {
			if s.path != path {
				continue
			}
			s.mu.Lock()
			if len(s.subs) <= 1 {
				lone = append(lone, s)
			}
			s.mu.Unlock()
		}
	}
	return lone
}

// differing names the parts of the keys in which streams differ; unique are those
// of which no value was seen twice: they name a request, a client or a user.
func differing(streams []*Stream) (names, unique []string) {
	seen := map[partHash]int{}
	values := map[string]int{}
	for _, s := range streams {
		for _, part := range s.parts {
			if seen[part]++; seen[part] == 1 {
				values[part.name]++
			}
		}
	}
	apart := map[string]struct{}{}
	for part, n := range seen {
		if n < len(streams) {
			apart[part.name] = struct{}{}
		}
	}
	names = slices.Sorted(maps.Keys(apart))
	for _, name := range names {
		if values[name] == len(streams) {
			unique = append(unique, name)
		}
	}
	return names, unique
}

// remedy tells which options would let streams be shared that these parts keep
// apart, if the parts do not matter.
func remedy(names []string) string {
	var options []string
	for _, name := range names {
		kind, name, _ := strings.Cut(name, " ")
		switch {
		case kind == "query" && name != "":
			options = append(options, "key_ignore query "+name)
		case kind == "header" && name == "Cookie":
			options = append(options, "share cookies <those that matter>")
		case kind == "header":
			options = append(options, "key_ignore header "+name)
		}
	}
	if len(options) == 0 {
		return "share public, if the path is the same for everybody"
	}
	return strings.Join(options, "; ") + "; or share public, if the path is the same for everybody"
}
