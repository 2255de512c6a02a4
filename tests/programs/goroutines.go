// Goroutines, channels, garbage collection and timers: a Go program's usual demands on the system.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
)

func main() {
	var wait sync.WaitGroup
	sums := make(chan int, 100)
	for worker := 0; worker < 100; worker++ {
		wait.Add(1)
		go func(worker int) {
			defer wait.Done()
			keep := make([][]byte, 0)
			total := 0
			for i := 0; i < 200; i++ {
				keep = append(keep, make([]byte, 1024))
				total += worker * i
				if i%50 == 0 {
					runtime.Gosched()
				}
			}
			sums <- total + len(keep)
		}(worker)
	}
	wait.Wait()
	close(sums)
	total := 0
	for sum := range sums {
		total += sum
	}
	runtime.GC()
	started := time.Now()
	<-time.After(20 * time.Millisecond)
	fmt.Println(total, time.Since(started) >= 20*time.Millisecond)
	fmt.Printf("%x\n", sha256.Sum256([]byte("calypte")))
	if _, err := os.ReadFile("/no/such/file"); err != nil {
		fmt.Println(err)
	}
	os.Exit(7)
}
