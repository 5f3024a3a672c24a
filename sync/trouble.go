package sync

import (
	"cmp"
	"errors"
	"net/http"
	"slices"

	"ksefmirror/internal/ksef"
)

// ErrStuck is in the error of a cycle for each answer of KSeF's from which a
// stream cannot go on without risking an invoice. It goes on once KSeF answers
// otherwise; nothing is wrong with the mirror itself.
var ErrStuck = errors.New("this role stops here; the others go on")

// onlyThisStream tells whether the other streams may still succeed: KSeF refused
// this role or this request, a limit was reached, or this stream is stuck.
// Anything else (no login, no network, a full disk) would meet them all.
func onlyThisStream(err error) bool {
	return overLimit(err) || errors.Is(err, ErrStuck) || answered(err, http.StatusBadRequest, http.StatusForbidden)
}

// overLimit tells whether a limit was reached.
func overLimit(err error) bool {
	var budget *ksef.BudgetError
	return errors.As(err, &budget)
}

// answered tells whether KSeF refused a request with one of the HTTP statuses.
func answered(err error, statuses ...int) bool {
	var refused *ksef.Error
	return errors.As(err, &refused) && slices.Contains(statuses, refused.HTTPStatus)
}

// Limited gives the limit that cut work short if err tells of nothing but KSeF's
// limits, the first where several did; else nil. One role's limit does not hide that
// another role has failed.
func Limited(err error) *ksef.BudgetError {
	var several interface{ Unwrap() []error }
	if !errors.As(err, &several) {
		limit, _ := errors.AsType[*ksef.BudgetError](err)
		return limit
	}
	var first *ksef.BudgetError
	for _, each := range several.Unwrap() {
		limit := Limited(each)
		if limit == nil {
			return nil
		}
		first = cmp.Or(first, limit)
	}
	return first
}

// Trouble is the kind of an error that only a person can mend; "" for any other.
type Trouble string

const (
	// TroubleLogin: KSeF does not accept what the mirror logs in with.
	TroubleLogin Trouble = "login"
	// TroublePermission: KSeF knows who logs in, who may not read these invoices.
	TroublePermission Trouble = "permission"
)

func troubleOf(err error) Trouble {
	const noPermissions = 415 // status of a login (open-api, AuthenticationOperationStatusResponse)
	var login *ksef.LoginError
	switch {
	case errors.Is(err, ksef.ErrForbidden), errors.As(err, &login) && login.Status == noPermissions:
		return TroublePermission
	case login != nil && login.Terminal:
		return TroubleLogin
	}
	return ""
}

// fromKSeF tells whether err is KSeF's or the network's doing, rather than this
// machine's.
func fromKSeF(err error) bool {
	var refused *ksef.Error
	var login *ksef.LoginError
	return errors.As(err, &refused) || errors.As(err, &login) || overLimit(err) || errors.Is(err, ErrStuck)
}

// refusedForGood tells whether KSeF's refusal concerns this one invoice: asking
// for the next may well succeed.
func refusedForGood(e *ksef.Error) bool {
	switch e.HTTPStatus {
	case http.StatusUnauthorized, http.StatusTooManyRequests:
		return false
	case http.StatusForbidden:
		return e.Reason == "insufficient-resource-access"
	}
	return e.HTTPStatus >= 400 && e.HTTPStatus < 500
}

// servedBadly tells whether err is KSeF's failure to serve, which may concern one
// invoice or all.
func servedBadly(err error) bool {
	var refused *ksef.Error
	return errors.As(err, &refused) && (refused.HTTPStatus >= 500 || refused.HTTPStatus == http.StatusOK)
}

// badRequest tells whether KSeF refused what was asked, and would again.
func badRequest(err error) bool {
	var refused *ksef.Error
	return errors.As(err, &refused) && refused.HTTPStatus == http.StatusBadRequest && !refused.Retryable()
}
