package delivery

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A client of a Unix socket reads, whose room is written full again before it is
// looked: it takes what it is sent.
func TestUnixSocketThatIsFullAgain(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	s, piece := &fdSocket{fd: pair[0]}, make([]byte, 4<<10)
	fill := func() (taken int64) {
		for n := 1; n > 0; {
			if n, err = s.write(piece); err != nil {
				t.Fatal(err)
			}
		}
		a, _ := s.acks()
		return a.taken
	}
	before := fill()
	if same := fill(); same != before {
		t.Errorf("who reads nothing has taken %d, and then %d", before, same)
	}
	for n := 1; n > 0; {
		n, _ = unix.Read(pair[1], piece)
	}
	if after := fill(); after <= before {
		t.Errorf("who has read all has taken %d, and %d before", after, before)
	}
}
