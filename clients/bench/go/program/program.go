// Package program is what both sides have in common: commands from standard input, and times on standard output.
package program

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"
)

// Command is one line of standard input.
type Command struct {
	Do       string
	Queue    string
	Count    int
	Size     int
	Window   int
	Prefetch int
}

// Serve executes one command after another, and answers each with its seconds.
func Serve(actions map[string]func(Command)) {
	fmt.Println(`{"ready": true}`)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var command Command
		Check(json.Unmarshal(lines.Bytes(), &command))
		began := time.Now()
		actions[command.Do](command)
		fmt.Printf("{\"seconds\": %f}\n", time.Since(began).Seconds())
	}
}

// Check ends the program after an error.
func Check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
