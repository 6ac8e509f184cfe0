// Command reasons derives from bpf/drops.txt, the one list of drop reasons, the C header, the Go
// table and the page of documentation.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"go/format"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

type reason struct {
	number        int
	name, meaning string
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: reasons REPOSITORY")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(root string) error {
	list, err := read(filepath.Join(root, "bpf/drops.txt"))
	if err != nil {
		return err
	}
	table, err := format.Source(goTable(list))
	if err != nil {
		return err
	}
	for path, data := range map[string][]byte{
		"bpf/lib/drop_reasons.h":            header(list),
		"dataplane/internal/bpf/reasons.go": table,
		"docs/drop-reasons.md":              page(list),
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func read(path string) ([]reason, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []reason
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		words := strings.Fields(lines.Text())
		if len(words) < 3 {
			return nil, fmt.Errorf("%s: want number, name and meaning: %q", path, lines.Text())
		}
		n, err := strconv.Atoi(words[0])
		if err != nil || n != len(list)+1 || n > 63 {
			return nil, fmt.Errorf("%s: want number %d (63 at most): %q", path, len(list)+1, lines.Text())
		}
		list = append(list, reason{n, words[1], strings.Join(words[2:], " ")})
	}
	return list, nil
}

func header(list []reason) []byte {
	var b bytes.Buffer
	b.WriteString("/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */\n")
	b.WriteString("/* Code generated from bpf/drops.txt. DO NOT EDIT. */\n#pragma once\n\n")
	for _, r := range list {
		name := strings.ToUpper(strings.ReplaceAll(r.name, "-", "_"))
		fmt.Fprintf(&b, "#define DROP_%s %d\n", name, r.number)
	}
	return b.Bytes()
}

func goTable(list []reason) []byte {
	var b bytes.Buffer
	b.WriteString("// Code generated from bpf/drops.txt. DO NOT EDIT.\n\npackage bpf\n\n")
	b.WriteString("// Reasons names the drop reasons by number; 0 is none.\nvar Reasons = []string{\n\"\",\n")
	for _, r := range list {
		fmt.Fprintf(&b, "%q,\n", r.name)
	}
	b.WriteString("}\n")
	return b.Bytes()
}

func page(list []reason) []byte {
	var b bytes.Buffer
	b.WriteString("<!-- Code generated from bpf/drops.txt. DO NOT EDIT. -->\n# Drop reasons\n\n")
	b.WriteString("Every packet that the dataplane drops is counted per port and reason.\n\n")
	b.WriteString("| number | reason | meaning |\n| --- | --- | --- |\n")
	for _, r := range list {
		fmt.Fprintf(&b, "| %d | `%s` | %s |\n", r.number, r.name, r.meaning)
	}
	return b.Bytes()
}
