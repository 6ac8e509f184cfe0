package routing

import (
	"fmt"
	"log/slog"
	"net/netip"

	bgplog "github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// A libraryLog takes the BGP library's log. Only there does it say why a session fails, so
// that is where SessionStatus.LastError comes from; the rest goes to slog at Debug.
type libraryLog struct {
	log    *slog.Logger
	failed func(reflector netip.Addr, reason string)
}

func (l libraryLog) Panic(msg string, fields bgplog.Fields) { panic(fmt.Sprint(msg, fields)) }
func (l libraryLog) Fatal(msg string, fields bgplog.Fields) { panic(fmt.Sprint(msg, fields)) }
func (l libraryLog) Error(msg string, fields bgplog.Fields) { l.note(msg, fields) }
func (l libraryLog) Warn(msg string, fields bgplog.Fields)  { l.note(msg, fields) }
func (l libraryLog) Info(msg string, fields bgplog.Fields)  {}
func (l libraryLog) SetLevel(bgplog.LogLevel)               {}

// GetLevel is Debug because failed connects are told at no other level.
func (l libraryLog) GetLevel() bgplog.LogLevel { return bgplog.DebugLevel }

func (l libraryLog) Debug(msg string, fields bgplog.Fields) {
	if msg == "failed to connect" {
		l.note(msg, fields)
	}
}

func (l libraryLog) note(msg string, fields bgplog.Fields) {
	l.log.Debug("bgp library", "message", msg, "fields", fields)
	key, _ := fields["Key"].(string)
	reflector, err := netip.ParseAddr(key)
	if err != nil {
		return
	}
	code, hasCode := fields["Code"].(uint8)
	subcode, _ := fields["Subcode"].(uint8)
	switch {
	case hasCode:
		msg += ": " + bgp.NewNotificationErrorCode(code, subcode).String()
	case fields["Error"] != nil:
		msg = fmt.Sprint(fields["Error"])
	case fields["Data"] != nil:
		msg += ": " + fmt.Sprint(fields["Data"])
	}
	l.failed(reflector, msg)
}
