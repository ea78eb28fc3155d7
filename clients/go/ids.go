package warrengate

import (
	"bufio"
	"crypto/rand"
	"sync"

	"github.com/google/uuid"
)

// messageIDs creates the ids of messages. Random bytes are read for many of them at a time, because each read may be a
// system call.
var messageIDs = idSource{random: bufio.NewReader(rand.Reader)}

type idSource struct {
	mu     sync.Mutex
	random *bufio.Reader
}

// next returns a random UUID.
func (s *idSource) next() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The system's source of randomness does not fail.
	return uuid.Must(uuid.NewRandomFromReader(s.random)).String()
}
