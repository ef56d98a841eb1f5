package stream

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// maxCrowds bounds how many paths are counted and told, because clients choose
// them.
const maxCrowds = 4096

// joinCrowdLocked counts a new stream, and tells when many of a path have one
// subscriber each.
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
	if tell := s.options.Crowded; tell != nil {
		if lone, some := h.loneLocked(s); lone > crowdSize {
			if crowd, ok := crowdOf(some, s.options.Meant); ok {
				crowd.Streams = lone
				crowd.Place = s.shownHost + s.shownPath
				tell(crowd)
			}
		}
	}
}

// crowdOf tells what keeps streams apart. It returns false if that is what is meant
// to: most of them are of another user, or differ in what the operator has named.
func crowdOf(lone []*Stream, meant func(part string) bool) (Crowd, bool) {
	meaning := map[string]struct{}{}
	for _, s := range lone {
		var key strings.Builder
		for _, part := range s.parts {
			if meant != nil && meant(part.name) {
				key.WriteString(part.name + "\x00" + strconv.FormatUint(part.sum, 36) + "\x00")
			}
		}
		meaning[key.String()] = struct{}{}
	}
	if len(meaning) > 1 && 2*len(meaning) > len(lone) {
		return Crowd{}, false
	}
	apart, unique := differing(lone)
	counts := func(name string) bool { // the whole of what is told in parts does not
		return name != "header Cookie" && name != "original query" && (meant == nil || !meant(name))
	}
	c := Crowd{}
	for _, name := range apart {
		if counts(name) {
			c.Apart = append(c.Apart, Clip(name))
		}
	}
	for _, name := range unique {
		if counts(name) {
			c.Unique = append(c.Unique, Clip(name))
		}
	}
	c.Apart, c.Unique = c.Apart[:min(len(c.Apart), maxNames)], c.Unique[:min(len(c.Unique), maxNames)]
	c.Remedy = remedy(c.Apart)
	return c, len(c.Apart) > 0
}

// maxCompared is how many streams of a path are compared: that is done under the hub's
// lock, each has up to maxPartHashes parts, and more of them show nothing else.
const maxCompared = 64

// loneLocked returns how many streams of a stream's path have one subscriber, or linger,
// and some of them. Those of another configuration say nothing of this one.
func (h *Hub) loneLocked(of *Stream) (lone int, some []*Stream) {
	for _, streams := range h.streams {
		for _, s := range streams {
			if s.path != of.path || s.owner != of.owner {
				continue
			}
			s.mu.Lock()
			if s.countSubscribers() <= 1 {
				if lone++; len(some) < maxCompared {
					some = append(some, s)
				}
			}
			s.mu.Unlock()
		}
	}
	return lone, some
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
	var ignore, sessions []string
	onlyQuery, cookies := true, false
	for _, name := range names {
		kind, name, _ := strings.Cut(name, " ")
		onlyQuery = onlyQuery && kind == "query" && name != ""
		switch {
		case kind == "query" && name != "":
			ignore = append(ignore, "key_ignore query "+name)
		case kind == "header":
			ignore = append(ignore, "key_ignore header "+name)
		case kind == "cookie":
			cookies = true
			if isSession(name) {
				sessions = append(sessions, name)
			}
		}
	}
	const public = "share public, if the path is the same for everybody"
	switch {
	case onlyQuery:
		return strings.Join(ignore, "; ") + ", if the application does not look at it"
	case len(sessions) > 0:
		ignore = append(ignore, "share cookies "+strings.Join(sessions, " ")+", if it is another for each user")
	case cookies:
		ignore = append(ignore, "share cookies with the name of the session's, if it is another for each user")
	}
	return strings.Join(append([]string{public}, ignore...), "; or ")
}

// isSession reports whether a cookie's name is one that a session has.
func isSession(name string) bool {
	name = strings.ToLower(name)
	return name == "sid" || slices.ContainsFunc([]string{"sess", ".sid", "_sid", "auth", "token", "jwt"}, func(part string) bool {
		return strings.Contains(name, part)
	})
}
