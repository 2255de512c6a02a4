// Prints how long some work takes, a line each: name, seconds. The argument scales it.
package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

type record struct {
	Name   string
	Values []int
}

func loop(scale int) {
	total := 0
	for i := 0; i < 5_000_000*scale; i++ {
		total = (total + i*i) % 1_000_003
	}
	if total < 0 {
		panic(total)
	}
}

func digest(scale int) {
	block := make([]byte, 1_000_000)
	hash := sha256.New()
	for i := 0; i < 10*scale; i++ {
		hash.Write(block)
	}
}

func allocation(scale int) {
	table := map[string]*record{}
	for i := 0; i < 20_000*scale; i++ {
		table[strconv.Itoa(i)] = &record{"item", make([]int, 8)}
	}
}

func documents(scale int) {
	values := record{"x", make([]int, 200)}
	for i := 0; i < 300*scale; i++ {
		text, _ := json.Marshal(values)
		var back record
		if json.Unmarshal(text, &back) != nil {
			panic("not what was written")
		}
	}
}

func goroutines(scale int) {
	numbers := make(chan int)
	var group sync.WaitGroup
	for worker := 0; worker < 8; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for range numbers {
			}
		}()
	}
	for i := 0; i < 10_000*scale; i++ {
		numbers <- i
	}
	close(numbers)
	group.Wait()
}

func main() {
	scale, _ := strconv.Atoi(os.Args[1])
	works := []struct {
		name string
		work func(int)
	}{{"loop", loop}, {"digest", digest}, {"allocation", allocation}, {"documents", documents}, {"goroutines", goroutines}}
	for _, work := range works {
		started := time.Now()
		work.work(scale)
		fmt.Println(work.name, time.Since(started).Seconds())
	}
}
