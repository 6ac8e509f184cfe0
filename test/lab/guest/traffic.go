package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/crc64"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"time"
)

// trafficUsage lists the subcommands. Each prints one JSON object a line and exits 0 only if what
// it was asked for worked.
const trafficUsage = `usage: traffic COMMAND [FLAGS] [ADDRESS]
  tcp-serve [-once] ADDRESS:PORT          read streams, answer their length and checksum
  tcp-send [-bytes N] [-time D] ADDRESS:PORT
                                          send a stream and compare what the server saw
  tcp-connect [-timeout D] ADDRESS:PORT   say open, refused or timeout (exit 0, 1, 1)
  udp-serve ADDRESS:PORT                  send every datagram back
  udp-send [-count N] [-size N] [-interval D] ADDRESS:PORT
                                          send datagrams and count those that come back
  ping [-count N] [-interval D] [-timeout D] ADDRESS
                                          ICMP echo with sequence numbers, IPv4 and IPv6`

// trafficFlags are all flags of all subcommands; each uses its own.
type trafficFlags struct {
	once              bool
	bytes             int64
	count, size       int
	interval, timeout time.Duration
	duration          time.Duration
}

func runTraffic(args []string) error {
	if len(args) == 0 {
		return errors.New(trafficUsage)
	}
	var f trafficFlags
	flags := flag.NewFlagSet("traffic "+args[0], flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprintln(os.Stderr, trafficUsage) }
	flags.BoolVar(&f.once, "once", false, "end after one stream")
	flags.Int64Var(&f.bytes, "bytes", 0, "length of the stream; 0 is as long as -time lasts")
	flags.DurationVar(&f.duration, "time", 2*time.Second, "longest time to send")
	flags.IntVar(&f.count, "count", 5, "number of requests")
	flags.IntVar(&f.size, "size", 64, "bytes of payload, at least 8")
	flags.DurationVar(&f.interval, "interval", 100*time.Millisecond, "time between requests")
	flags.DurationVar(&f.timeout, "timeout", 2*time.Second, "how long to wait for an answer")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New(trafficUsage)
	}
	commands := map[string]func(string, trafficFlags) error{
		"tcp-serve": tcpServe, "tcp-send": tcpSend, "tcp-connect": tcpConnect,
		"udp-serve": udpServe, "udp-send": udpSend, "ping": ping,
	}
	command, ok := commands[args[0]]
	if !ok {
		return errors.New(trafficUsage)
	}
	return command(flags.Arg(0), f)
}

var checksums = crc64.MakeTable(crc64.ECMA)

// A received stream as its receiver saw it.
type received struct {
	Bytes    int64  `json:"bytes"`
	Checksum uint64 `json:"checksum"`
}

func report(v any) { json.NewEncoder(os.Stdout).Encode(v) }

func tcpServe(address string, f trafficFlags) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer listener.Close()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		if f.once {
			return receiveStream(conn)
		}
		go receiveStream(conn)
	}
}

func receiveStream(conn net.Conn) error {
	defer conn.Close()
	sum := crc64.New(checksums)
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{conn}, make([]byte, 256<<10))
	if err != nil {
		return err
	}
	got := received{n, sum.Sum64()}
	report(got)
	return json.NewEncoder(conn).Encode(got)
}

// tcpSend sends random bytes (one random MiB over and over, from an offset that makes each
// repetition differ) and fails unless the server saw the same.
func tcpSend(address string, f trafficFlags) error {
	conn, err := net.DialTimeout("tcp", address, f.timeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	block := make([]byte, 1<<20)
	generator := rand.NewChaCha8([32]byte{byte(time.Now().UnixNano())})
	generator.Read(block)
	sum := crc64.New(checksums)
	start := time.Now()
	var sent int64
	for (f.bytes == 0 || sent < f.bytes) && (f.bytes > 0 || time.Since(start) < f.duration) {
		chunk := block[sent%997:][:256<<10]
		if f.bytes > 0 {
			chunk = chunk[:min(int64(len(chunk)), f.bytes-sent)]
		}
		n, err := conn.Write(chunk)
		sum.Write(chunk[:n])
		sent += int64(n)
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", sent, err)
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	var got received
	if err := json.NewDecoder(conn).Decode(&got); err != nil {
		return fmt.Errorf("read what the server saw: %w", err)
	}
	seconds := time.Since(start).Seconds()
	intact := got == received{sent, sum.Sum64()}
	report(map[string]any{"bytes": sent, "seconds": seconds, "mbit_s": float64(sent) * 8 / 1e6 / seconds, "intact": intact})
	if !intact {
		return fmt.Errorf("server saw %+v, sent %d bytes with checksum %d", got, sent, sum.Sum64())
	}
	return nil
}

func tcpConnect(address string, f trafficFlags) error {
	conn, err := net.DialTimeout("tcp", address, f.timeout)
	result := "open"
	var netErr net.Error
	switch {
	case err == nil:
		conn.Close()
	case errors.Is(err, syscall.ECONNREFUSED):
		result = "refused"
	case errors.As(err, &netErr) && netErr.Timeout():
		result = "timeout"
	default:
		result = err.Error()
	}
	report(map[string]string{"result": result})
	if result != "open" {
		return fmt.Errorf("connect %s: %s", address, result)
	}
	return nil
}

func udpServe(address string, _ trafficFlags) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	for buffer := make([]byte, 64<<10); ; {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(buffer[:n], from); err != nil {
			return err
		}
	}
}
