// Goroutines, garbage, files, child processes, signals and an HTTP server.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func main() {
	var group sync.WaitGroup
	results := make([]int, 1000)
	for i := range results {
		group.Add(1)
		go func(i int) { defer group.Done(); results[i] = i * i }(i)
	}
	group.Wait()
	total := 0
	for _, result := range results {
		total += result
	}
	fmt.Println("goroutines", total)

	kept := [][]byte{}
	for i := 0; i < 20000; i++ {
		kept = append(kept, make([]byte, 10000))
		if len(kept) > 100 {
			kept = kept[:0]
		}
	}
	runtime.GC()
	var statistics runtime.MemStats
	runtime.ReadMemStats(&statistics)
	fmt.Println("garbage", statistics.NumGC > 1, statistics.HeapAlloc < 100<<20)

	folder, err := os.MkdirTemp("", "runtime-")
	check(err)
	file := filepath.Join(folder, "file")
	check(os.WriteFile(file, make([]byte, 1<<20), 0o600))
	content, err := os.ReadFile(file)
	check(err)
	fmt.Printf("file %x\n", sha256.Sum256(content))
	check(os.RemoveAll(folder))

	command := exec.Command("sh", "-c", "cat; echo err >&2; exit 3")
	command.Stdin = strings.NewReader("through cat")
	var out, failed bytes.Buffer
	command.Stdout, command.Stderr = &out, &failed
	fmt.Println("child", command.Run(), out.String(), strings.TrimSpace(failed.String()))
	sleeping := exec.Command("sleep", "100")
	check(sleeping.Start())
	check(sleeping.Process.Kill())
	fmt.Println("killed", sleeping.Wait())

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	check(syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	fmt.Println("signal", <-signals)
	func() {
		defer func() { fmt.Println("recovered", recover()) }()
		var nothing *int
		fmt.Println(*nothing)
	}()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go http.Serve(listener, http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		fmt.Fprint(response, request.URL.Path, " ", len(body))
	}))
	client := http.Client{Timeout: 30 * time.Second}
	for _, size := range []int{1, 100000} {
		response, err := client.Post("http://"+listener.Addr().String()+"/path", "text/plain", bytes.NewReader(make([]byte, size)))
		check(err)
		body, err := io.ReadAll(response.Body)
		check(err)
		fmt.Println("http", response.StatusCode, string(body))
	}
}
