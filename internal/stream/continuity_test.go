package stream

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func withGaps(o *Options) { o.GapEvent = "gap" }

const skippedLine = "possible gap: upstream did not continue after the last event ID"

// What the first IDs of a connection show that was opened after one broke.
func TestReconnectContinuity(t *testing.T) {
	for _, test := range []struct {
		name   string
		before []string
		again  []string // what the next connection brings
		gap    string   // what is told before the first of these, or behind it; "": nothing
	}{
		{"goes on", counting(1, 20), counting(21, 22), ""},
		{"repeats", counting(1, 20), counting(19, 22), ""},
		{"the last one again", counting(1, 20), counting(20, 22), ""},
		{"has skipped some", counting(1, 20), counting(25, 26), toldGap("upstream", "20", "4") + "\n"},
		{"began anew", counting(101, 120), counting(6, 7), "behind " + toldGap("upstream", "6", "null") + "\n"},
		{"greets each connection", append([]string{"0"}, counting(1, 20)...), []string{"0", "21", "22"}, ""},
		{"greets each connection, and has skipped some", counting(101, 120), []string{"3", "125", "126"}, ""},
		{"numbers that do not ascend", append(counting(101, 120), "7", "90"), []string{"35", "36"}, ""},
		{"counts at times", append(strings.Fields("1 4 9 20 33"), counting(50, 60)...), counting(63, 64), ""},
		{"too few to tell", counting(1, 5), counting(9, 10), ""},
		{"does not count by one", strings.Fields("10 20 30 40 50 60 70 80 90 100"), strings.Fields("120 130"), ""},
		{"other ids", strings.Fields("a b c d e f g h i j k"), strings.Fields("x y"), ""},
		{"leading zeros", strings.Fields("01 02 03 04 05 06 07 08 09 10 11"), strings.Fields("09x 00"), ""},
		{"no ids then", counting(1, 20), nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(o *Options) { withGaps(o); o.Buffer.Events = 8 }, func(st *streamTest) {
				a, up := st.start()
				for _, id := range test.before {
					up.numbered(id)
					a.read()
				}
				before := countsNow()
				up.breakOff()
				up = st.source.acceptOpen()
				if want := test.before[len(test.before)-1]; up.lastEventID != want {
					st.t.Errorf("opened with %q, expected %q", up.lastEventID, want)
				}
				up.numbered(test.again...)
				fresh := test.again
				for len(fresh) > 0 && slices.Contains(test.before[max(0, len(test.before)-8):], fresh[0]) {
					fresh = fresh[1:]
				}
				if gap, behind := strings.CutPrefix(test.gap, "behind "); behind {
					a.expect(numbered(fresh[0]), gap, numbered(fresh[1:]...))
				} else {
					a.expect(gap, numbered(fresh...))
				}
				gaps, lines := 0, 0
				if test.gap != "" {
					gaps, lines = 1, 1
				}
				if n := countsNow().since(before)["gaps_total reason=upstream"]; n != float64(gaps) || st.logged(skippedLine) != lines {
					st.t.Errorf("%v gaps counted, %d logged", n, st.logged(skippedLine))
				}
				if len(fresh) > 1 {
					up.numbered("1000") // the first ids say it all
					a.expect(numbered("1000"))
				}
			})
		})
	}
}

// A stream breaks when it is not known yet whether the upstream counts: as soon as that
// shows, so does what is missing.
func TestReconnectContinuityShowsLater(t *testing.T) {
	for _, test := range []struct {
		name  string
		again [][]string // what the next connections bring
		gap   string     // is told before the last of these; "": none is
	}{
		{"it has skipped some", [][]string{counting(9, 13)}, toldGap("upstream", "5", "3") + "\n"},
		{"twice", [][]string{counting(9, 11), counting(20, 22)}, toldGap("upstream", "5", "null") + "\n"},
		{"it goes on", [][]string{counting(6, 13)}, ""},
		{"it does not count", [][]string{append([]string{"9", "11"}, counting(20, 40)...)}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, withGaps, func(st *streamTest) {
				a, up := st.start()
				up.numbered(counting(1, 5)...)
				a.expect(newcomer, numbered(counting(1, 5)...))
				before := countsNow()
				for i, ids := range test.again {
					up.breakOff()
					up = st.source.acceptOpen()
					last := len(ids) - 1
					up.numbered(ids[:last]...)
					a.expect(numbered(ids[:last]...))
					up.numbered(ids[last])
					if i < len(test.again)-1 {
						a.expect(numbered(ids[last]))
					} else {
						a.expect(test.gap, numbered(ids[last]))
					}
				}
				told := strings.Count(test.gap, "event: gap")
				if n := countsNow().since(before)["gaps_total reason=upstream"]; n != float64(told) || st.logged(skippedLine) != told {
					st.t.Errorf("%v gaps counted, %d logged, expected %d", n, st.logged(skippedLine), told)
				}
			})
		})
	}
}

// Clients come back with an ID that is not in the buffer any more: what the
// upstream's answer shows.
func TestSpliceContinuity(t *testing.T) {
	letters := strings.Fields("aa ab ac ad ae af ag ah ai aj ak al am an ao ap aq ar as at au")
	for _, test := range []struct {
		name   string
		stream []string // what it has had
		id     string   // with which the client comes
		answer []string // what its own connection brings first
		live   string   // what both bring then
		want   string   // what the client is given
	}{
		{"the upstream goes on", counting(1, 30), "20", counting(21, 30), "31", numbered(counting(21, 31)...)},
		{"the upstream does not", counting(1, 30), "20", nil, "31", toldGap("upstream", "20", "10") + "\n" + numbered("31")},
		{"the upstream has less", counting(1, 30), "10", counting(21, 30), "31", toldGap("upstream", "10", "10") + "\n" + numbered(counting(21, 31)...)},
		{"ids that are not numbers: it goes on", letters[:20], "ai", letters[9:20], "au", numbered(letters[9:21]...)},
		{"ids that are not numbers: it does not", letters[:20], "ai", nil, "au", numbered("au") + toldGap("upstream", "ai", "null") + "\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, auto(func(o *Options) { withGaps(o); o.Buffer.Events = 5 }), func(st *streamTest) {
				_, up := st.start()
				up.numbered(test.stream...)
				time.Sleep(time.Minute)
				before := countsNow()
				b := st.join(test.id)
				b.expectOutcome(ResumeSpliced)
				var given strings.Builder
				given.WriteString(b.read())
				sp := st.source.acceptOpen()
				if sp.lastEventID != test.id {
					st.t.Errorf("opened with %q", sp.lastEventID)
				}
				for _, id := range test.answer {
					sp.numbered(id)
					given.WriteString(b.read())
				}
				if sp.ctx.Err() == nil {
					time.Sleep(100 * time.Millisecond)
					sp.numbered(test.live)
				}
				up.numbered(test.live)
				sp.greeted()
				given.WriteString(b.read())
				sp.expectGone(true)
				got := strings.NewReplacer(primed(test.stream[len(test.stream)-1]), "", primed(test.live), "").Replace(given.String())
				if got != test.want {
					st.t.Errorf("given %q\nexpected %q", got, test.want)
				}
				told := strings.Count(test.want, "event: gap")
				if n := countsNow().since(before)["gaps_total reason=upstream"]; n != float64(told) || st.logged(skippedLine) != told {
					st.t.Errorf("%v gaps counted, %d logged, expected %d", n, st.logged(skippedLine), told)
				}
			})
		})
	}
}

// An upstream that is quiet after an ID which is lost, though it counts and is past
// that.
func TestQuietSpliceContinuity(t *testing.T) {
	for _, test := range []struct {
		name   string
		stream []string
		id     string
		want   string
	}{
		{"lost", counting(1, 30), "20", toldGap("upstream", "20", "null") + "\n" + primed("30")},
		{"newer than the stream", counting(1, 30), "35", primed("30")},
		{"ids that do not count", strings.Fields("1000 1060 1090 1130 1150 1190 1230 1270 1310"), "1020",
			toldGap("upstream", "1020", "null") + "\n" + primed("1310")},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, auto(func(o *Options) { withGaps(o); o.Buffer.Events = 5 }), func(st *streamTest) {
				_, up := st.start()
				up.numbered(test.stream...)
				time.Sleep(time.Minute)
				b := st.join(test.id)
				b.read()
				sp := st.source.acceptOpen()
				time.Sleep(time.Minute)
				b.expect(test.want)
				sp.expectGone(true)
			})
		})
	}
}

// A client comes back with an ID that is not in the buffer any more, to an application
// whose ids do not count: it is told when all that it is given is what each connection
// is greeted with, and what the stream got too, though the stream had more before.
func TestGapOfForgottenID(t *testing.T) {
	const hello, ping = "event: hello\ndata: {}\n\n", "event: ping\ndata: {}\n\n"
	long := numbered(strings.Fields("b c d e f g h i j k")...)
	for _, test := range []struct {
		name   string
		greets string // each connection is sent
		stream string // what it has had
		answer string // what the client's own connection brings more than the greeting
		live   string // what both bring then; "": nothing
		told   bool
	}{
		{"nothing", "", long, "", "", true},
		{"only what is new", "", long, "", numbered("l"), true},
		{"a greeting", hello, long, "", "", true},
		{"a greeting with an id", "id: hello\ndata: {}\n\n", long, "", numbered("l"), true},
		{"a greeting of several events", hello + "id: 0\ndata: 0\n\n", long, "", "", true},
		{"nothing, after events without ids", "", numbered("b", "c") + strings.Repeat(ping, 6), "", "", true},
		{"only what is new, among events without ids", "", long + ping + numbered("l") + ping, "", numbered("m"), true},
		{"an event without an id, among what is new", "", long + ping, "", ping + numbered("l"), true},
		{"an event without an id that came before too", "", long + ping, ping, "", true},
		{"nothing, of one event", "", numbered("b"), "", "", true},
		{"a greeting, of two events", hello, numbered("b", "c"), "", "", true},
		{"the rest", "", long, long, "", false},
		{"the rest after a greeting", hello, long, long, numbered("l"), false},
		{"the rest, which is the stream", "", numbered("b", "c"), numbered("b", "c"), "", false},
		{"the rest after a greeting, which is the stream", hello, numbered("b", "c"), numbered("b", "c"), "", false},
		{"a snapshot", "", long, "data: [b c d e f g h i j k]\n\n", "", false},
	} {
		for name, mode := range map[string]IDsMode{"auto": IDsAuto, "upstream": IDsUpstream} {
			t.Run(test.name+", ids "+name, func(t *testing.T) {
				inBubble(t, auto(func(o *Options) { withGaps(o); o.IDs, o.Buffer.Events = mode, 5 }), func(st *streamTest) {
					send := func(c *fakeConn, text string) {
						if err := c.send(text); err != nil && c.ctx.Err() == nil {
							st.t.Fatal(err)
						}
					}
					_, up := st.start()
					send(up, test.greets)
					time.Sleep(time.Second)
					for block := range strings.SplitAfterSeq(test.stream, "\n\n") {
						send(up, block)
						time.Sleep(100 * time.Millisecond)
					}
					time.Sleep(time.Minute)
					before := countsNow()
					b := st.join("a")
					b.expectOutcome(ResumeSpliced)
					var given strings.Builder
					sp := st.source.acceptOpen()
					for block := range strings.SplitAfterSeq(test.greets+test.answer, "\n\n") {
						send(sp, block)
						given.WriteString(b.read())
					}
					time.Sleep(200 * time.Millisecond)
					if test.live != "" {
						send(sp, test.live)
						send(up, test.live)
					}
					time.Sleep(time.Minute)
					given.WriteString(b.read())
					sp.expectGone(true)
					told := strings.Count(given.String(), strings.TrimSuffix(toldGap("upstream", "a", "null"), "\n"))
					n := countsNow().since(before)["gaps_total reason=upstream"]
					if want := map[bool]int{true: 1}[test.told]; told != want || n != float64(want) || st.logged(skippedLine) != want {
						st.t.Errorf("told %d times, %v counted, %d logged, expected %d: %q", told, n, st.logged(skippedLine), want, given.String())
					}
				})
			})
		}
	}
}

// The ID is kept, but the client has an upstream connection of its own, since nothing
// shows yet that both are told the same. When they are merged it is told what it has missed.
func TestGapOfKeptID(t *testing.T) {
	const hello = "event: hello\ndata: {}\n\n"
	stream := strings.Fields("a b c d e")
	for _, test := range []struct {
		name   string
		greets string
		answer []string // to the ID b
		live   string   // what both bring then
		want   string
		told   bool
	}{
		{"the upstream goes on", "", stream[2:], "f", numbered("c", "d", "e", "f"), false},
		{"the upstream does not", "", nil, "f", numbered("f") + toldGap("upstream", "b", "null") + "\n", true},
		{"the upstream goes on, after a greeting", hello, stream[2:], "f", hello + numbered("c", "d", "e", "f"), false},
		{"the upstream does not, after a greeting", hello, nil, "f", hello + numbered("f") + toldGap("upstream", "b", "null") + "\n", true},
		{"the upstream does not, and is quiet after a greeting", hello, nil, "", hello + toldGap("upstream", "b", "null") + "\n", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, auto(func(o *Options) { withGaps(o); o.Vouched = false }), func(st *streamTest) {
				greet := func(c *fakeConn) {
					if err := c.send(test.greets); err != nil {
						st.t.Fatal(err)
					}
				}
				_, up := st.start()
				greet(up)
				time.Sleep(time.Minute)
				up.numbered(stream...)
				time.Sleep(time.Minute)
				before := countsNow()
				b := st.join("b")
				sp := st.source.acceptOpen()
				if sp.lastEventID != "b" {
					st.t.Errorf("opened with %q", sp.lastEventID)
				}
				greet(sp)
				sp.numbered(test.answer...)
				given := b.read()
				time.Sleep(4 * time.Second)
				if test.live != "" {
					sp.numbered(test.live)
					up.numbered(test.live)
				}
				time.Sleep(time.Minute)
				given += b.read()
				sp.expectGone(true)
				if given = strings.NewReplacer(primed("f"), "", primed("e"), "").Replace(given); given != test.want {
					st.t.Errorf("given %q\nexpected %q", given, test.want)
				}
				n := countsNow().since(before)["gaps_total reason=upstream"]
				if want := map[bool]int{true: 1}[test.told]; n != float64(want) || st.logged(skippedLine) != want {
					st.t.Errorf("%v gaps counted, %d logged, expected %d", n, st.logged(skippedLine), want)
				}
			})
		})
	}
}

// A gap shows also where the replay buffers keep little of what both have brought.
func TestGapOfForgottenIDInSmallBuffers(t *testing.T) {
	for name, goesOn := range map[string]bool{"the upstream goes on": true, "the upstream does not": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, auto(func(o *Options) { withGaps(o); o.Buffer.Events = 3 }), func(st *streamTest) {
				letters := strings.Fields("a b c d e f g h i j k l m n o p q r s t")
				a, up := st.start()
				up.numbered(letters[:10]...)
				time.Sleep(time.Minute)
				b := st.join("a")
				sp := st.source.acceptOpen()
				var given strings.Builder
				if goesOn {
					for _, id := range letters[1:10] {
						sp.numbered(id)
						given.WriteString(b.read())
					}
				}
				for _, id := range letters[10:] { // in their greetings' time
					up.numbered(id)
					a.read()
					if sp.ctx.Err() == nil {
						sp.numbered(id)
					}
					given.WriteString(b.read())
				}
				time.Sleep(time.Minute)
				given.WriteString(b.read())
				sp.expectGone(true)
				if told := strings.Contains(given.String(), "event: gap"); told == goesOn {
					st.t.Errorf("told a gap: %v", told)
				}
			})
		})
	}
}

// A response that the gateway ends before the client's connection was merged tells what
// the merge would have told: the client comes back with a newer ID.
func TestGapBeforeMaxAge(t *testing.T) {
	for name, test := range map[string]struct{ goesOn, first bool }{
		"the upstream goes on":                        {goesOn: true},
		"the upstream does not":                       {},
		"it does, and it is told something first":     {goesOn: true, first: true},
		"it does not, and it is told something first": {first: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, auto(func(o *Options) { withGaps(o); o.Buffer.Events, o.MaxAge = 5, 3*time.Second }), func(st *streamTest) {
				var given strings.Builder
				_, b, sp := st.joinBehindTheBuffer(test.goesOn, &given)
				time.Sleep(2399 * time.Millisecond) // max_age, less what is taken off at most
				if test.first {
					sp.numbered("k") // the stream has not got it yet
					given.WriteString(b.read())
				}
				time.Sleep(601 * time.Millisecond)
				given.WriteString(b.read())
				told := strings.Contains(given.String(), strings.TrimSuffix(toldGap("upstream", "a", "null"), "\n"))
				if told == test.goesOn || b.end != EndMaxAge {
					st.t.Errorf("told a gap: %v, end %q: %q", told, b.end, given.String())
				}
			})
		})
	}
}

// joinBehindTheBuffer lets a client join with an ID that is not kept any more, of an
// upstream whose ids do not count. given is what the client is given of what came after
// it, if the upstream goes on from there.
func (st *streamTest) joinBehindTheBuffer(goesOn bool, given *strings.Builder) (up *fakeConn, b *reader, sp *fakeConn) {
	letters := strings.Fields("a b c d e f g h i j")
	_, up = st.start()
	up.numbered("a") // alone, so that the others are not how each connection begins
	time.Sleep(time.Minute)
	up.numbered(letters[1:]...)
	time.Sleep(time.Minute)
	b = st.join("a")
	sp = st.source.acceptOpen()
	if goesOn {
		for _, id := range letters[1:] {
			sp.numbered(id)
			given.WriteString(b.read())
		}
	}
	return up, b, sp
}

// So is told who is left alone with its connection, because that could not be merged.
func TestGapOfWhoIsLeftAlone(t *testing.T) {
	for name, test := range map[string]struct{ goesOn, live bool }{
		"the upstream goes on":                 {goesOn: true},
		"the upstream does not":                {},
		"it does not, and both were told more": {live: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, auto(func(o *Options) { withGaps(o); o.Buffer.Events = 5 }), func(st *streamTest) {
				var given strings.Builder
				up, b, sp := st.joinBehindTheBuffer(test.goesOn, &given)
				time.Sleep(time.Second / 2)
				if test.live {
					sp.numbered("k")
					up.numbered("k")
				}
				given.WriteString(b.read())
				st.hub.GiveUpSplices()
				sp.numbered("l")
				given.WriteString(b.read())
				gap := toldGap("upstream", "a", "null") + "\n"
				if told := strings.HasSuffix(given.String(), gap+numbered("l")); told == test.goesOn || strings.Count(given.String(), gap) > 1 {
					st.t.Errorf("told a gap: %v: %q", told, given.String())
				}
			})
		})
	}
}

// A client is left alone with its connection when all that this has brought is nothing that the stream has: the
// beginning of what came after the client's ID, or what the stream is about to get. It is told when that shows.
func TestGapOfWhoIsLeftAloneShowsLater(t *testing.T) {
	for name, test := range map[string]struct {
		brings []string                               // the connection
		then   func(st *streamTest, up, sp *fakeConn) // when the client was left alone
		told   bool
	}{
		"the upstream goes on": {[]string{"b", "c"}, func(_ *streamTest, _, sp *fakeConn) { sp.numbered(strings.Fields("d e f g h i j")...) }, false},
		"it goes on, and takes its time": {[]string{"b", "c"}, func(_ *streamTest, _, sp *fakeConn) {
			time.Sleep(2 * twinWindow)
			sp.numbered(strings.Fields("d e f g h i j")...)
		}, false},
		"it does not":                         {[]string{"k"}, func(_ *streamTest, up, _ *fakeConn) { up.numbered("k") }, true},
		"it does not, and the stream is late": {[]string{"k"}, func(_ *streamTest, up, _ *fakeConn) { time.Sleep(twinWindow / 2); up.numbered("k") }, true},
		"nobody will know: the stream ends": {[]string{"k"}, func(st *streamTest, up, _ *fakeConn) {
			up.breakOff()
			st.source.accept().answer(http.StatusNoContent, 0)
		}, true},
		"nobody will know: the connection does": {[]string{"k"}, func(_ *streamTest, _, sp *fakeConn) { sp.close() }, true},
		"nobody will know: the client is let go": {[]string{"k"}, func(st *streamTest, _, _ *fakeConn) {
			sub := st.readers[1].sub
			sub.Origin.mu.Lock()
			defer sub.Origin.mu.Unlock()
			sub.leaveBy(time.Now(), EndMaxAge)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, auto(func(o *Options) { withGaps(o); o.Buffer.Events = 5 }), func(st *streamTest) {
				var given strings.Builder
				up, b, sp := st.joinBehindTheBuffer(false, &given)
				sp.numbered(test.brings...)
				given.WriteString(b.read())
				st.hub.GiveUpSplices()
				test.then(st, up, sp)
				for range 10 {
					time.Sleep(time.Second)
					given.WriteString(b.read())
				}
				n := 0
				if test.told {
					n = 1
				}
				if told := strings.Count(given.String(), toldGap("upstream", "a", "null")); told != n {
					st.t.Errorf("told a gap %d times, expected %d: %q", told, n, given.String())
				}
			})
		})
	}
}

// An event that came as the splice was opened may be on its way to it, but not any more
// when the splice has brought a later one, or after a while.
func TestGapOfWhatCameWithTheSplice(t *testing.T) {
	for name, test := range map[string]struct {
		later bool
		age   time.Duration
		held  bool
		told  bool
	}{
		"a later one has come":              {true, time.Second / 2, false, true},
		"none, for a while":                 {false, 2 * time.Second, false, true},
		"none yet":                          {false, time.Second / 2, false, false},
		"none, as the client has read none": {false, 2 * time.Second, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			set := func(o *Options) {
				withGaps(o)
				if test.held {
					o.Buffer.Events = 2
				}
			}
			inBubble(t, auto(set), func(st *streamTest) {
				_, up := st.start()
				up.numbered("hello")
				time.Sleep(time.Minute)
				st.options.MaxAge = test.age
				b := st.join("x")
				sp := st.source.accept()
				up.numbered("c")
				sp.open()
				sp.numbered("hello")
				if test.later {
					up.numbered("d")
					sp.numbered("d")
				}
				if test.held {
					go func() { _ = sp.send(numbered("hello", "hello")) }() // the last of them waits for the client
				} else {
					b.read()
				}
				time.Sleep(test.age)
				if told := strings.Contains(b.read(), toldGap("upstream", "x", "null")); told != test.told || b.end != EndMaxAge {
					t.Errorf("told a gap: %v, end %q", told, b.end)
				}
			})
		})
	}
}

// A greeting that each connection is sent is no event that the upstream left out.
func TestSpliceContinuityOfGreetings(t *testing.T) {
	inBubble(t, auto(func(o *Options) { withGaps(o); o.Buffer.Events = 12 }), func(st *streamTest) {
		hello := func(c *fakeConn) {
			if err := c.send("id: hello\ndata: hello\n\n"); err != nil {
				st.t.Fatal(err)
			}
		}
		letters := strings.Fields("a b c d e f g h i j k l m n o p q r s t")
		_, up := st.start()
		hello(up)
		up.numbered(letters[:14]...)
		time.Sleep(time.Minute)
		up.breakOff()
		up = st.source.acceptOpen()
		hello(up)
		up.numbered(letters[14:18]...)
		time.Sleep(time.Minute)
		b := st.join("d") // not kept any more
		sp := st.source.acceptOpen()
		hello(sp)
		var given strings.Builder
		given.WriteString(b.read())
		for _, id := range letters[4:18] {
			sp.numbered(id)
			given.WriteString(b.read())
		}
		time.Sleep(100 * time.Millisecond)
		sp.numbered("s")
		up.numbered("s")
		sp.greeted()
		given.WriteString(b.read())
		if got := given.String(); strings.Contains(got, "event: gap") || !strings.Contains(got, "data: s") {
			st.t.Errorf("given %q", got)
		}
	})
}

// A gap that was told before does not hide another one.
func TestContinuityAfterToldGap(t *testing.T) {
	inBubble(t, auto(func(o *Options) { withGaps(o); o.Buffer.Events = 6 }), func(st *streamTest) {
		letters := strings.Fields("a b c d e f g h i j k l m n o p q r s t")
		_, up := st.start()
		up.numbered(letters[:15]...)
		time.Sleep(time.Minute)
		st.hub.Every()[0].mu.Lock()
		intakeOf(up.conn).tellGap()
		st.hub.Every()[0].mu.Unlock()
		up.numbered(letters[15:18]...)
		time.Sleep(time.Minute)
		b := st.join("d")
		sp := st.source.acceptOpen()
		time.Sleep(100 * time.Millisecond)
		sp.numbered("s")
		up.numbered("s")
		sp.greeted()
		if got := b.read(); !strings.Contains(got, `"last_event_id":"d"`) {
			st.t.Errorf("given %q", got)
		}
	})
}

// A client brings a last event ID, and the upstream gives none: it cannot have gone
// on after that ID when it is asked again, whatever it was asked with.
func TestForeignIDResumesNothing(t *testing.T) {
	gives := func(position, data string, mode IDsMode) string {
		if mode == IDsUpstream {
			return "data: " + data + "\n\n"
		}
		return given(position, data)
	}
	told := func(position string, mode IDsMode) string {
		if mode == IDsUpstream {
			return toldGap("upstream", "", "null") + "\n"
		}
		before, _ := strconv.Atoi(position)
		return toldGap("upstream", "sse1.E."+strconv.Itoa(before-1), "null") + "id: sse1.E." + position + "\n\n"
	}
	for name, mode := range map[string]IDsMode{"auto": IDsAuto, "upstream": IDsUpstream, "gateway": IDsGateway} {
		set := func(o *Options) { withGaps(o); o.IDs = mode }
		t.Run(name+": a break", func(t *testing.T) {
			inBubble(t, set, func(st *streamTest) {
				a := st.join("foreign")
				up := st.source.acceptOpen()
				up.event("1")
				a.expect(gives("1", "1", mode))
				before := countsNow()
				up.breakOff()
				up = st.source.acceptOpen()
				up.event("2")
				a.expect(told("2", mode), gives("3", "2", mode))
				if n := countsNow().since(before)["gaps_total reason=upstream"]; n != 1 {
					st.t.Errorf("%v gaps counted", n)
				}
				entries := st.logs.FilterMessage("upstream recovered").All()
				if len(entries) != 1 || entries[0].ContextMap()["resumed"] != false {
					st.t.Errorf("logged %v", entries)
				}
			})
		})
		t.Run(name+": a reload", func(t *testing.T) {
			inBubble(t, set, func(st *streamTest) {
				a := st.join("foreign")
				up := st.source.acceptOpen()
				up.event("1")
				a.expect(gives("1", "1", mode))
				st.reload()
				st.source.acceptOpen()
				time.Sleep(overlap + time.Millisecond)
				up.event("2") // the new connection has lost it
				up.expectGone(false)
				time.Sleep(meetingTime)
				up.expectGone(true)
				a.expect(gives("2", "2", mode), told("3", mode))
			})
		})
	}
	t.Run("reconnect resumable shows the break", func(t *testing.T) {
		inBubble(t, func(o *Options) { o.Reconnect = ReconnectResumable }, func(st *streamTest) {
			a := st.join("foreign")
			up := st.source.acceptOpen()
			up.event("1")
			up.breakOff()
			a.expectEnd(EndBroken, given("1", "1"))
		})
	})
	t.Run("until it has given one", func(t *testing.T) {
		inBubble(t, withGaps, func(st *streamTest) {
			a := st.join("foreign")
			up := st.source.acceptOpen()
			up.numbered("1")
			up.breakOff()
			up = st.source.acceptOpen()
			up.numbered("2")
			a.expect(numbered("1", "2"))
		})
	})
}

// Clients come back when the gateway has just begun, and it does not know yet that the
// upstream counts. As soon as it does, it tells those for whom events are missing.
func TestGapShowsLater(t *testing.T) {
	send := func(conns []*fakeConn, pause time.Duration, ids ...string) {
		for _, id := range ids {
			for _, c := range conns {
				if c.ctx.Err() == nil {
					c.numbered(id)
				}
			}
			time.Sleep(pause)
		}
	}
	told := func(id, missed string) string { return toldGap("upstream", id, missed) + "\n" }

	inBubble(t, auto(withGaps), func(st *streamTest) {
		opener := st.join("50")
		up := st.source.acceptOpen()
		same, late, fresh := st.join("50"), st.join("45"), st.join("60")
		conns := []*fakeConn{up, st.source.acceptOpen(), st.source.acceptOpen()}
		nobody := st.join("")
		conns = append(conns, st.source.acceptOpen())
		before := countsNow()
		send(conns, time.Second, counting(61, 68)...)
		for _, r := range []*reader{opener, same, late, fresh, nobody} {
			if got := r.read(); strings.Contains(got, "event: gap") || !strings.Contains(got, "data: 68") {
				st.t.Errorf("given %q", got)
			}
		}
		gone := st.join("68")
		gone.expect(primed("68"))
		send(conns, time.Second, "69")
		opener.expect(told("50", "10"), numbered("69"))
		same.expect(told("50", "10"), numbered("69"))
		late.expect(told("45", "15"), numbered("69"))
		fresh.expect(numbered("69"))
		nobody.expect(numbered("69"))
		gone.expect(numbered("69"))
		if n := countsNow().since(before)["gaps_total reason=upstream"]; n != 2 || st.logged(skippedLine) != 2 {
			st.t.Errorf("%v gaps counted, %d logged", n, st.logged(skippedLine))
		}
		again := st.join("50") // what is kept is not all
		again.expectOutcome(ResumeGap)
		again.expect(told("50", "null"), primed("50"), numbered(counting(61, 69)...))
		send(conns, time.Second, counting(70, 80)...)
		for _, r := range []*reader{opener, same, late, fresh, nobody, gone, again} {
			r.expect(numbered(counting(70, 80)...))
		}
	})

	// One is merged before anything came.
	inBubble(t, auto(withGaps), func(st *streamTest) {
		st.join("50")
		up := st.source.acceptOpen()
		b := st.join("45")
		sp := st.source.acceptOpen()
		time.Sleep(time.Minute)
		b.read()
		sp.expectGone(true)
		up.numbered(counting(61, 69)...)
		if got := b.read(); strings.Count(got, told("45", "15")) != 1 {
			st.t.Errorf("given %q", got)
		}
	})

	for _, test := range []struct {
		name  string
		pause time.Duration
		ids   []string
		want  string
	}{
		{"it goes on", 0, counting(51, 70), ""},
		{"all of its history", 0, counting(1, 70), ""},
		{"the last one again", time.Second, counting(50, 70), ""},
		{"it began anew", time.Second, counting(1, 20), told("50", "null")},
		{"it does not count", time.Second, strings.Fields("61 65 70 77 80 91 93 94 99 103 120 124"), ""},
		{"a few of its events have no number", time.Second, append(append(counting(61, 64), "x"), counting(65, 80)...), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, auto(withGaps), func(st *streamTest) {
				a := st.join("50")
				up := st.source.acceptOpen()
				send([]*fakeConn{up}, test.pause, test.ids...)
				got := a.read()
				if rest := strings.Replace(got, test.want, "", 1); rest != numbered(test.ids...) || !strings.Contains(got, test.want) {
					st.t.Errorf("given %q", got)
				}
			})
		})
	}
}

// Clients choose the IDs that they come with: of the answers to them those are kept that somebody waits for, and so many
// of the others at most.
func TestAnswersThatNobodyWaitsForAreBounded(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		st.start()
		s := st.hub.Every()[0]
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range 10 * maxAnswers {
			if s.expect(strconv.Itoa(i), nil) == nil {
				t.Fatal("nothing is expected of an answer")
			}
			if n := len(s.late.open); n > maxAnswers {
				t.Fatalf("%d answers are kept, expected %d at most", n, maxAnswers)
			}
		}
	})
}
