package respond

import "time"

// A bucket admits rate packets a second, and burst at once after a pause. The zero value is empty
// and fills at its first use.
type bucket struct {
	tokens float64
	last   time.Time
}

func (b *bucket) admit(now time.Time, rate, burst float64) bool {
	if b.last.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+now.Sub(b.last).Seconds()*rate)
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
