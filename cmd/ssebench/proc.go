package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// usage is what a process and its descendants have used, or a whole machine.
type usage struct {
	cpu float64 // seconds, user and system
	rss int64   // bytes
}

const clockTick = 100 // USER_HZ, the unit of times in /proc on every Linux architecture that Go runs on

// treeUsage adds up a process and all its descendants. Those that end meanwhile are left out.
func treeUsage(pid int) usage {
	var u usage
	for _, p := range tree(pid) {
		one := processUsage(p)
		u.cpu += one.cpu
		u.rss += one.rss
	}
	return u
}

func tree(pid int) []int {
	if pid <= 0 {
		return nil
	}
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		lists, _ := filepath.Glob("/proc/" + strconv.Itoa(pids[i]) + "/task/*/children") // fails for a bad pattern only
		for _, list := range lists {
			text, err := os.ReadFile(list)
			if err != nil {
				continue
			}
			for field := range bytes.FieldsSeq(text) {
				if child, err := strconv.Atoi(string(field)); err == nil {
					pids = append(pids, child)
				}
			}
		}
	}
	return pids
}

func processUsage(pid int) usage {
	dir := "/proc/" + strconv.Itoa(pid)
	var u usage
	if text, err := os.ReadFile(dir + "/stat"); err == nil {
		u.cpu = parseStat(text)
	}
	if text, err := os.ReadFile(dir + "/statm"); err == nil {
		if f := bytes.Fields(text); len(f) > 1 {
			pages, _ := strconv.ParseInt(string(f[1]), 10, 64)
			u.rss = pages * int64(os.Getpagesize())
		}
	}
	return u
}

// parseStat returns the CPU seconds of /proc/PID/stat: its fields 14 and 15. The name in field 2 may have spaces.
func parseStat(text []byte) float64 {
	_, after, ok := bytes.Cut(text[max(bytes.LastIndexByte(text, ')'), 0):], []byte(") "))
	f := bytes.Fields(after)
	if !ok || len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(string(f[11]), 10, 64)
	system, _ := strconv.ParseInt(string(f[12]), 10, 64)
	return float64(user+system) / clockTick
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	f := bytes.Fields(text)
	return string(bytes.Join(f[:min(len(f), 3)], []byte(" ")))
}

// machineBusy returns the busy seconds of each core, whoever used them.
func machineBusy() []float64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil
	}
	return parseBusy(text)
}

func parseBusy(text []byte) []float64 {
	var cores []float64
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) < 8 || !bytes.HasPrefix(f[0], []byte("cpu")) || len(f[0]) == len("cpu") {
			continue
		}
		var busy int64
		for i := 1; i < min(len(f), 9); i++ {
			if i == 4 || i == 5 { // idle, and waiting for disks
				continue
			}
			ticks, _ := strconv.ParseInt(string(f[i]), 10, 64)
			busy += ticks
		}
		cores = append(cores, float64(busy)/clockTick)
	}
	return cores
}
