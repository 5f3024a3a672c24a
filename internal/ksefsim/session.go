package ksefsim

import (
	"cmp"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"ksefmirror/internal/ksef"
)

// mineToo reports whether two logins are the same owner's, in the same context.
func (l *login) mineToo(other *login) bool {
	if l.context != other.context || (l.signed == nil) != (other.signed == nil) {
		return false
	}
	if l.signed == nil {
		return l.token == other.token
	}
	return l.signed.subject == other.signed.subject
}

// authSessions answers GET /auth/sessions, with the sessions that have not ended,
// the latest first.
func (s *Server) authSessions(r *http.Request, l *login) (any, *refusal) {
	s.noBody(r)
	size, refused := number(r, "pageSize", 10, 10, 100)
	if refused != nil {
		return nil, refused
	}
	from := 0
	if token := r.Header.Get("X-Continuation-Token"); token != "" {
		text, err := base64.StdEncoding.DecodeString(token)
		if from, _ = strconv.Atoi(string(text)); err != nil || from <= 0 {
			return nil, badRequest(21418, "Przekazany token kontynuacji ma nieprawidłowy format.", "")
		}
	}
	now := s.now()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var active []*login
	for _, each := range s.logins {
		if each.mineToo(l) && each.redeemed && !each.revoked && now.Before(each.started.Add(refreshTokenLife)) {
			active = append(active, each)
		}
	}
	slices.SortFunc(active, func(a, b *login) int {
		return cmp.Or(b.started.Compare(a.started), strings.Compare(a.reference, b.reference))
	})
	items := []any{}
	for _, each := range active[min(from, len(active)):min(from+size, len(active))] {
		items = append(items, map[string]any{
			"referenceNumber": each.reference, "isCurrent": each == l, "startDate": each.started.Format(ticks),
			"authenticationMethod":     each.method.name,
			"authenticationMethodInfo": map[string]any{"category": each.method.category, "code": each.method.code, "displayName": each.method.displayName},
			"status":                   map[string]any{"code": each.status, "description": loginDescription(each.status)},
			"isTokenRedeemed":          each.redeemed,
			"refreshTokenValidUntil":   each.started.Add(refreshTokenLife).Format(ticks),
		})
	}
	answer := map[string]any{"items": items}
	if from+size < len(active) {
		answer["continuationToken"] = base64.StdEncoding.EncodeToString([]byte(strconv.Itoa(from + size)))
	}
	return answer, nil
}

// endSession answers DELETE /auth/sessions/{referenceNumber}: access tokens live on
// (sesje.md). What KSeF says of a session that is not there is not known.
func (s *Server) endSession(w http.ResponseWriter, r *http.Request, l *login) *refusal {
	s.noBody(r)
	asked := r.PathValue("referenceNumber")
	if len(asked) != 36 {
		return invalid("Numer referencyjny musi mieć 36 znaków.")
	}
	s.mutex.Lock()
	ended := s.logins[asked]
	known := ended != nil && ended.mineToo(l)
	if known {
		ended.revoked = true
	}
	s.mutex.Unlock()
	if !known {
		return invalid("Sesja uwierzytelnienia %s nie istnieje.", asked)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// ownPermissions answers POST /permissions/query/personal/grants. Whoever owns the
// context has been granted nothing. Only permissionState is simulated.
func (s *Server) ownPermissions(r *http.Request, l *login) (any, *refusal) {
	var request struct {
		State string `json:"permissionState"`
	}
	if refused := s.readJSON(r, &request); refused != nil {
		return nil, refused
	}
	size, refused := number(r, "pageSize", 10, 10, 100)
	if refused != nil {
		return nil, refused
	}
	page, refused := number(r, "pageOffset", 0, 0, 1_000_000)
	if refused != nil {
		return nil, refused
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var granted []string
	switch {
	case request.State == "Inactive":
	case l.signed != nil:
		granted = s.permissions[permission{l.context, l.signed.subject}]
	case s.tokens[l.token] != nil:
		granted = s.tokens[l.token].permissions
	}
	rows := []any{}
	from := min(page*size, len(granted))
	to := min(from+size, len(granted))
	for i, scope := range granted[from:to] {
		row := map[string]any{
			// Of a UUID's shape, the same for the same permission.
			"id":              "00000000-0000-4000-8000-" + strings.Repeat("0", 8) + strconv.Itoa(1000+from+i),
			"permissionScope": scope, "description": "Uprawnienie " + scope, "permissionState": "Active",
			"startDate": l.started.Add(-24 * time.Hour).Format(ticks), "canDelegate": false,
		}
		if l.context.Type == ksef.ContextNIP || l.context.Type == ksef.ContextInternalID {
			row["contextIdentifier"] = l.context
		}
		rows = append(rows, row)
	}
	return map[string]any{"permissions": rows, "hasMore": to < len(granted)}, nil
}
