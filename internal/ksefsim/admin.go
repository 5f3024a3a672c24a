package ksefsim

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"ksefmirror/internal/ksef"
)

// adminRequest is the body of POST /admin/faults, which plays with a running
// simulator by hand. Only the fields that the fault needs are read.
type adminRequest struct {
	Fault   string      `json:"fault"`   // its name in [adminRequest.apply]
	Path    string      `json:"path"`    // as Fault.Path
	Times   int         `json:"times"`   // as Fault.Times
	Skip    int         `json:"skip"`    // as Fault.Skip
	Pending int         `json:"pending"` // as ExportOutcome.Pending
	Status  int         `json:"status"`
	Body    string      `json:"body"`
	Bytes   int         `json:"bytes"`
	Value   string      `json:"value"` // Retry-After, a reasonCode, or an instant in RFC 3339
	Wait    int         `json:"waitMs"`
	Limits  ksef.Limits `json:"limits"`
}

// adminFault adds a fault by name.
func (s *Server) adminFault(w http.ResponseWriter, r *http.Request) {
	var request adminRequest
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&request)
	if err == nil {
		err = request.apply(s)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.log.Info("fault added", "fault", request.Fault, "path", request.Path, "times", request.Times)
	w.WriteHeader(http.StatusNoContent)
}

// apply puts the named fault into s.
func (a adminRequest) apply(s *Server) error {
	var fault Fault
	switch a.Fault {
	case "answer":
		if a.Status < 200 || a.Status > 599 {
			return fmt.Errorf("fault answer: status %d, want 200 to 599", a.Status)
		}
		fault = Answer(a.Path, a.Times, a.Status, nil, a.Body)
	case "html":
		fault = HTMLError(a.Path, a.Times, max(http.StatusOK, a.Status))
	case "server-error":
		fault = ServerError(a.Path, a.Times)
	case "forbidden":
		fault = Forbidden(a.Path, a.Times, a.Value)
	case "firewall":
		fault = Firewall(a.Path, a.Times)
	case "too-many":
		fault = TooMany(a.Path, a.Times, a.Value)
	case "reset":
		fault = Reset(a.Path, a.Times)
	case "lose-answer":
		fault = LoseAnswer(a.Path, a.Times)
	case "cut-body":
		fault = CutBody(a.Path, a.Times, max(0, a.Bytes))
	case "hold":
		fault = Hold(a.Path, a.Times, a.wait)
	case "hold-body":
		fault = HoldBody(a.Path, a.Times, max(0, a.Bytes), a.wait)
	case "wrong-hash":
		fault = WrongHash(a.Path, a.Times)
	case "wrong-bytes":
		fault = RewriteBody(a.Path, a.Times, func(body []byte) []byte { return slices.Concat(body, []byte("\n")) })
	case "wrong-part-hashes":
		fault = WrongPartHashes(a.Times)
	case "null-hwm":
		fault = NullHWM(a.Times)
	case "extra-fields":
		fault = ExtraFields(a.Times)
	case "ignore-restrict":
		fault = IgnoreRestrict(a.Times)
	case "page-shift":
		fault = PageShift(a.Times)
	case "hwm": // value "" lets it move again
		at, err := time.Parse(time.RFC3339, a.Value)
		if a.Value != "" && err != nil {
			return fmt.Errorf("fault hwm: %w", err)
		}
		s.SetHWM(at)
		return nil
	case "login":
		s.SetLoginOutcome(LoginOutcome{Status: a.Status})
		return nil
	case "export": // without anything else, the normal course
		s.SetExportOutcome(ExportOutcome{Times: a.Times, Takes: time.Duration(a.Wait) * time.Millisecond, Pending: a.Pending, Status: a.Status})
		return nil
	case "expire-links":
		s.ExpireLinks()
		return nil
	case "revoke-refresh-tokens":
		s.RevokeRefreshTokens()
		return nil
	case "refuse-tokens": // for good
		s.RefuseTokens(true)
		return nil
	case "rotate-keys":
		s.RotateKeys()
		return nil
	case "limits":
		s.SetLimits(a.Limits)
		return nil
	default:
		return fmt.Errorf("fault %q is not known", a.Fault)
	}
	fault.Skip = a.Skip
	s.Fault(fault)
	return nil
}

// wait waits as long as asked, or until the client is gone.
func (a adminRequest) wait(r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(a.Wait)*time.Millisecond)
	defer cancel()
	<-ctx.Done()
}
