package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"
)

// An echoer is a connection whose other end sends back what it is sent.
type echoer struct {
	conn net.Conn
	// encode makes request number seq; decode says whether a message answers one of ours.
	encode func(seq uint32) []byte
	decode func(message []byte) (seq uint32, ok bool)
}

// An echoReport counts the answers to numbered requests.
type echoReport struct {
	Sent      int      `json:"sent"`
	Received  int      `json:"received"`
	Lost      []uint32 `json:"lost"`
	Duplicate int      `json:"duplicate"`
	MedianUs  int64    `json:"median_us,omitempty"`
}

// run sends f.count requests, waits for the last answers and fails if any is missing.
func (e echoer) run(f trafficFlags) error {
	answered := make([]int, f.count)
	sentAt := make([]time.Time, f.count)
	var delays []time.Duration
	type answer struct {
		seq uint32
		at  time.Time
	}
	answers := make(chan answer, f.count)
	go func() {
		defer close(answers)
		for buffer := make([]byte, 64<<10); ; {
			n, err := e.conn.Read(buffer)
			if os.IsTimeout(err) {
				return
			}
			if err != nil {
				continue // an ICMP error, such as a refused port: the request counts as lost
			}
			if seq, ok := e.decode(buffer[:n]); ok && int(seq) < f.count {
				answers <- answer{seq, time.Now()}
			}
		}
	}()
	ticker := time.NewTicker(f.interval)
	defer ticker.Stop()
	for seq := range f.count {
		sentAt[seq] = time.Now()
		e.conn.Write(e.encode(uint32(seq))) // an error is a lost request
		if seq < f.count-1 {
			<-ticker.C
		}
	}
	e.conn.SetReadDeadline(time.Now().Add(f.timeout))
	missing := f.count
	result := echoReport{Sent: f.count, Lost: []uint32{}}
	for a := range answers {
		if answered[a.seq]++; answered[a.seq] > 1 {
			result.Duplicate++
			continue
		}
		delays = append(delays, a.at.Sub(sentAt[a.seq]))
		if missing--; missing == 0 {
			e.conn.SetReadDeadline(time.Now()) // nothing more to wait for
		}
	}
	for seq, n := range answered {
		if n == 0 {
			result.Lost = append(result.Lost, uint32(seq))
		}
	}
	result.Received = f.count - missing
	result.MedianUs = median(delays).Microseconds()
	report(result)
	if missing > 0 {
		return fmt.Errorf("%d of %d requests have no answer", missing, f.count)
	}
	return nil
}

func udpSend(address string, f trafficFlags) error {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	return echoer{
		conn: conn,
		encode: func(seq uint32) []byte {
			payload := make([]byte, max(f.size, 8))
			binary.BigEndian.PutUint32(payload, seq)
			return payload
		},
		decode: func(message []byte) (uint32, bool) {
			if len(message) != max(f.size, 8) {
				return 0, false
			}
			return binary.BigEndian.Uint32(message), true
		},
	}.run(f)
}

// ping sends ICMP echo requests from a raw socket. The sequence number of 32 bits travels in the
// payload; the header has its lower half.
func ping(address string, f trafficFlags) error {
	target, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if target.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	id := uint16(os.Getpid())
	return echoer{
		conn: conn,
		encode: func(seq uint32) []byte {
			message := make([]byte, 8+max(f.size, 8))
			message[0] = request
			binary.BigEndian.PutUint16(message[4:], id)
			binary.BigEndian.PutUint16(message[6:], uint16(seq))
			binary.BigEndian.PutUint32(message[8:], seq)
			if target.Is4() { // the kernel does it for ICMPv6
				binary.BigEndian.PutUint16(message[2:], internetChecksum(message))
			}
			return message
		},
		decode: func(message []byte) (uint32, bool) {
			if target.Is4() { // a raw IPv4 socket delivers the IP header
				message = message[min(len(message), int(message[0]&0xF)*4):]
			}
			if len(message) != 8+max(f.size, 8) || message[0] != reply || binary.BigEndian.Uint16(message[4:]) != id {
				return 0, false
			}
			return binary.BigEndian.Uint32(message[8:]), true
		},
	}.run(f)
}

// internetChecksum is RFC 1071's over data whose checksum field is zero.
func internetChecksum(data []byte) uint16 {
	var sum uint32
	for ; len(data) > 1; data = data[2:] {
		sum += uint32(binary.BigEndian.Uint16(data))
	}
	if len(data) == 1 {
		sum += uint32(data[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func median(delays []time.Duration) time.Duration {
	if len(delays) == 0 {
		return 0
	}
	slices.Sort(delays)
	return delays[len(delays)/2]
}
