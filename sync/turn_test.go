package sync

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Mirrors that share a turn store one after another; one that does not get on delays
// the others by minutes, not for ever.
func TestTurnToStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turn := make(chan struct{}, 1)
		var mirrors [3]Mirror
		for i := range mirrors {
			mirrors[i].Turn = turn
		}
		began := time.Now()
		done, err := mirrors[0].turnToStore(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() { <-time.After(time.Minute); done() }()
		second, err := mirrors[1].turnToStore(t.Context())
		if took := time.Since(began); err != nil || took != time.Minute {
			t.Errorf("the second had its turn after %s, %v", took, err)
		}
		third, err := mirrors[2].turnToStore(t.Context()) // the second has still not ended
		if took := time.Since(began); err != nil || took != 6*time.Minute {
			t.Errorf("the third went on after %s, %v", took, err)
		}
		third()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := mirrors[0].turnToStore(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the end of the third was taken for that of the second: %v", err)
		}
		second()
		if _, err := mirrors[0].turnToStore(t.Context()); err != nil || len(turn) != 1 {
			t.Error(err)
		}
	})
}
