package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runDaemon is everything that a running guest does. It ends only with the machine.
func runDaemon([]string) error {
	if err := applyIgnition("/sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config/raw"); err != nil {
		fmt.Println("ingot-guest ignition:", err) // a machine with bad user data still boots
	}
	if err := setHostnameFromFile(); err != nil {
		fmt.Println("ingot-guest hostname:", err)
	}
	go watchPowerButton()
	go serveConsole()
	network, err := newNetwork()
	if err != nil {
		return err
	}
	go func() {
		if err := serveAgent(network); err != nil {
			fmt.Println("ingot-guest agent:", err)
		}
	}()
	network.run(context.Background())
	return nil
}

// setHostnameFromFile applies /etc/hostname, which Ignition may have written.
func setHostnameFromFile() error {
	data, err := os.ReadFile("/etc/hostname")
	if err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	return unix.Sethostname([]byte(strings.TrimSpace(string(data))))
}

// serveConsole keeps a root shell on the serial console.
func serveConsole() {
	for {
		tty, err := os.OpenFile("/dev/ttyS0", os.O_RDWR, 0)
		if err != nil {
			return
		}
		shell := exec.Command("/bin/sh", "-l")
		shell.Stdin, shell.Stdout, shell.Stderr = tty, tty, tty
		shell.Env = environment()
		shell.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
		err = shell.Run()
		tty.Close()
		if err != nil {
			time.Sleep(time.Second)
		}
	}
}

// watchPowerButton powers off when any input device reports the power key.
func watchPowerButton() {
	devices, _ := filepath.Glob("/dev/input/event*") // the pattern is valid
	for _, device := range devices {
		go func() {
			file, err := os.Open(device)
			if err != nil {
				return
			}
			defer file.Close()
			// struct input_event on a 64-bit machine: 16 bytes of time, type, code, value.
			event := make([]byte, 24)
			for {
				if n, err := file.Read(event); err != nil || n < len(event) {
					return
				}
				kind, code := binary.NativeEndian.Uint16(event[16:]), binary.NativeEndian.Uint16(event[18:])
				pressed := binary.NativeEndian.Uint32(event[20:]) == 1
				const evKey, keyPower = 1, 116
				if kind == evKey && code == keyPower && pressed {
					shutdown(unix.LINUX_REBOOT_CMD_POWER_OFF)
				}
			}
		}()
	}
}

// shutdown writes everything to disk and ends the machine; how is a reboot(2) command.
func shutdown(how int) {
	fmt.Println("ingot-guest going down")
	unix.Sync()
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		unix.Sync() // files are open for writing: without a journal this is as good as it gets
	}
	if err := unix.Reboot(how); err != nil {
		fmt.Println("ingot-guest shutdown:", err)
	}
}
