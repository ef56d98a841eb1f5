package stream

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/number"
)

// What gives way when the process runs short of something that is not the gateway's
// alone: files, and the memory of GOMEMLIMIT. Streams that linger go first, those that
// have earned the least and linger for longest. When memory is shorter yet, no stream
// is begun.

// IsShort reports whether no stream is to be begun, as memory is short. It lets streams
// that linger give way. No lock is held, or the hub's.
func (h *Hub) IsShort(log *zap.Logger) bool { return h.isShort(log, time.Now()) }

func (h *Hub) isShort(log *zap.Logger, now time.Time) bool {
	r := &h.resources
	if !r.looked.again(now, pressureInterval) {
		return r.percent.Load() >= noneBeginsAt
	}
	h.heedFiles(log)
	used, limit := r.memory()
	percent := number.As[int64](used / max(1, limit/100))
	r.percent.Store(percent)
	if percent < lingeringGoAt {
		return false
	}
	h.running.Go(func() {
		ended := h.GiveWay(wayBatch, gaveWayMemory)
		r.line.Log(func(suppressed int) {
			log.Warn("memory is short", zap.Uint64("bytes", used), zap.Uint64("limit", limit),
				zap.Int("streams", ended), zap.Int("suppressed", suppressed))
		})
	})
	r.giveBackSoon()
	return percent >= noneBeginsAt
}

// heedFiles lets streams that linger give way where most files are open.
func (h *Hub) heedFiles(log *zap.Logger) {
	r := &h.resources
	if r.files <= 0 {
		return
	}
	open, limit := r.open(), r.files
	over := open - limit*filesGoAt/100
	if over <= 0 {
		return
	}
	h.running.Go(func() {
		ended := h.GiveWay(int(over), GaveWayFiles)
		r.full.Log(func(suppressed int) {
			log.Warn("files are nearly used up", zap.Int64("open", open), zap.Int64("limit", limit),
				zap.Int("streams", ended), zap.Int("suppressed", suppressed))
		})
	})
}

// GiveWay ends up to n streams that only linger, and returns how many. No lock is held.
func (h *Hub) GiveWay(n int, why string) (ended int) {
	for ended < n {
		s := h.lingering.first()
		if s == nil {
			break
		}
		if s.expire() {
			ended++
		}
	}
	Counts.GaveWay.With(why).Add(ended)
	return ended
}

// endYoung ends the streams that linger above the bounds. No lock is held.
func (h *Hub) endYoung() {
	for s := h.lingering.tooYoung(); s != nil; s = h.lingering.tooYoung() {
		if s.expire() {
			Counts.GaveWay.With(gaveWayMany).Inc()
		}
	}
	if files := h.resources.files; files > 0 {
		if over := h.lingering.count() - int(files/filesShare); over > 0 {
			h.GiveWay(over, GaveWayFiles)
		}
	}
}
