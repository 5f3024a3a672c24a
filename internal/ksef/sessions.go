package ksef

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// Permission is what whoever is logged in may do in the context (open-api,
// PersonalPermissionScope).
type Permission = string

// PermissionInvoiceRead is the one that mirroring needs.
const PermissionInvoiceRead Permission = "InvoiceRead"

// permissionsPage is the largest page that KSeF gives of permissions and sessions.
const permissionsPage = 100

// Permissions lists the active permissions that were granted to whoever is logged
// in, for this context, in alphabetical order. The owner of the context may do
// everything without being granted it. It costs a request of [GroupOther] for 100.
func (c *Client) Permissions(ctx context.Context) ([]Permission, error) {
	all := []Permission{}
	for page := 0; ; page++ {
		var answer struct {
			Permissions []struct {
				Scope Permission `json:"permissionScope"`
			} `json:"permissions"`
			HasMore bool `json:"hasMore"`
		}
		options := url.Values{"pageSize": {strconv.Itoa(permissionsPage)}, "pageOffset": {strconv.Itoa(page)}}
		err := c.call(ctx, request{op: "read permissions", method: http.MethodPost, path: "/permissions/query/personal/grants?" + options.Encode()},
			map[string]string{"permissionState": "Active"}, &answer)
		if err != nil {
			return nil, err
		}
		for _, each := range answer.Permissions {
			all = append(all, clean(each.Scope, 50))
		}
		// A page that says there is more and holds nothing would never end.
		if !answer.HasMore || len(answer.Permissions) == 0 {
			slices.Sort(all)
			return slices.Compact(all), nil
		}
	}
}

// SessionInfo is a session at KSeF (open-api, AuthenticationListItem).
type SessionInfo struct {
	Reference  string
	Current    bool // it is this client's own
	Started    Timestamp
	Method     string    // KSeF's code, such as token.ksef
	ValidUntil Timestamp // of its refresh token; may be ""
}

// Sessions lists the sessions of whoever is logged in that have not ended, the
// latest first, this client's own among them. It costs a request of [GroupOther]
// for 100.
func (c *Client) Sessions(ctx context.Context) ([]SessionInfo, error) {
	const op = "list sessions"
	var all []SessionInfo
	next := ""
	for {
		var answer struct {
			Continuation string `json:"continuationToken"`
			Items        []struct {
				Reference string    `json:"referenceNumber"`
				Current   bool      `json:"isCurrent"`
				Started   Timestamp `json:"startDate"`
				Method    struct {
					Code string `json:"code"`
				} `json:"authenticationMethodInfo"`
				ValidUntil Timestamp `json:"refreshTokenValidUntil"`
			} `json:"items"`
		}
		r := request{op: op, method: http.MethodGet, path: "/auth/sessions?pageSize=" + strconv.Itoa(permissionsPage)}
		if next != "" {
			r.header = http.Header{"X-Continuation-Token": {next}}
		}
		if err := c.call(ctx, r, nil, &answer); err != nil {
			return nil, err
		}
		for _, each := range answer.Items {
			if each.Reference == "" {
				return nil, &Error{Op: op, Err: errors.New("a session lacks its reference number")}
			}
			all = append(all, SessionInfo{each.Reference, each.Current, each.Started, clean(each.Method.Code, 50), each.ValidUntil})
		}
		if answer.Continuation == "" || len(answer.Items) == 0 {
			return all, nil
		}
		next = answer.Continuation
	}
}

// EndSession ends one of [Client.Sessions], as [Client.Logout] ends this client's
// own.
func (c *Client) EndSession(ctx context.Context, reference string) error {
	return c.call(ctx, request{op: "end the session", method: http.MethodDelete, path: "/auth/sessions/" + url.PathEscape(reference)}, nil, nil)
}
